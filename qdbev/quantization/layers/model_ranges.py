"""The ranges of a whole quantized model in training: learned, held, penalised, settled; and what has none yet."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from qdbev.quantization.layers.quantizer import Quantizer
from qdbev.quantization.layers.swap import quantized_layers


def learn_ranges(
    model: nn.Module,
    *,
    weights: bool,
    inputs: bool,
    fixed_inputs: Collection[str] = (),
    form: Literal["log", "linear"] = "log",
    clip: bool = False,
) -> None:
    """Make the ranges of the quantizers that are on parameters, from the present ones.

    Args:
        model: A calibrated model.
        weights: Those of weights.
        inputs: Those of inputs.
        fixed_inputs: Paths of layers whose input range stays as it is all the same.
        form: What is the parameter, the logarithm of a step or the step itself (LSQ).
        clip: For inputs, a clipping level instead (PACT).
    """
    learned: set[Quantizer] = set()
    for path, layer in quantized_layers(model).items():
        for weight in layer.quantized_weights() if weights else ():
            if weight.quantizer.state == "on" and weight.quantizer not in learned:  # two layers may hold one weight
                weight.quantizer.learn(form)
                learned.add(weight.quantizer)
        for quantizer in layer.input_quantizers() if inputs and path not in fixed_inputs else ():
            if quantizer.state == "on":
                quantizer.learn("clip" if clip else form)


def hold_ranges(model: nn.Module, *, held: bool) -> None:
    """Let ranges that move or are learned stay as they are, or go on; those that follow their tensor always do."""
    for quantizer in _quantizers(model):
        quantizer.held = held


def range_penalty(model: nn.Module) -> Tensor:
    """The sum of squares of the clipping levels that are learned now, float32, with a gradient; 0 without any."""
    terms = [
        term
        for quantizer in _quantizers(model)
        if quantizer.trained is not None and quantizer.state == "on" and not quantizer.held
        if (term := quantizer.trained.penalty()) is not None
    ]
    return torch.stack(terms).sum() if terms else torch.zeros(())


def settle_ranges(model: nn.Module) -> None:
    """Fix all learned ranges at what was learned; the model has its own parameters alone again."""
    for quantizer in _quantizers(model):
        quantizer.settle()


def ranges_missing(model: nn.Module) -> list[str]:
    """Return the names of the quantizers that could not run."""
    return [quantizer.name for quantizer in _quantizers(model) if not quantizer.has_range]


def freeze_weight_ranges(model: nn.Module) -> None:
    """Stop weight ranges from following the weights, at their present values."""
    for layer in quantized_layers(model).values():
        for weight in layer.quantized_weights():
            weight.quantizer.freeze(weight.rows)


def _quantizers(model: nn.Module) -> Iterator[Quantizer]:
    """Each once, though two layers may hold one weight and its quantizer."""
    layers = quantized_layers(model).values()
    yield from dict.fromkeys(quantizer for layer in layers for quantizer in layer.quantizers())
