"""Batch norms that live on while quantized convolutions train, and are folded again at the end (HAWQ-v3's two phases).

A folded convolution gets a norm on its output that at first changes nothing: its statistics are those of the output
itself, measured on samples, and ``gamma = sqrt(var + eps)``, ``beta = mean``. In training it normalises by the batch
and its statistics follow. Folding puts ``f = gamma / sqrt(var + eps)`` into weight, bias and the step of the weight's
grid alike: ``f`` is positive, so the integers stay the same (Yao et al., ICML 2021: batch norm on the output of the
quantized layer, then fixed and folded).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from qdbev.quantization.layers.quantized import QuantizedLayer
from qdbev.quantization.planning.output_channels import as_held, outputs_first, turned_groups
from qdbev.quantization.ranges.trained_ranges import above_zero

NAME = "live_norm"
EPSILON = 1e-5
MOMENTUM = 0.1  # of torch's batch norm: a batch's share of the new statistics


class LiveNorm(nn.Module):
    """A batch norm that starts as the identity; no ``BatchNorm2d``, so that what freezes those leaves it alone.

    Args:
        mean: Of the output per channel.
        variance: Of the output per channel.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, *, mean: Tensor, variance: Tensor) -> None:
        super().__init__()
        self.register_buffer("running_mean", mean.clone())
        self.register_buffer("running_var", variance.clone())
        self.weight, self.bias = nn.Parameter((variance + EPSILON).sqrt()), nn.Parameter(mean.clone())

    def forward(self, x: Tensor) -> Tensor:
        """Normalise by the batch in training, by the statistics otherwise; the second axis holds the channels."""
        return F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            above_zero(self.weight),
            self.bias,
            training=self.training,
            momentum=MOMENTUM,
            eps=EPSILON,
        )

    def factor(self) -> Tensor:
        """``f``, float64, above zero."""
        return above_zero(self.weight).double() * (self.running_var.double() + EPSILON).rsqrt()


@dataclass(frozen=True)
class LiveNorms:
    """The norms of a model by the path of their layer."""

    norms: Mapping[str, LiveNorm]
    _layers: Mapping[str, nn.Module]
    _hooks: tuple[RemovableHandle, ...]

    @torch.no_grad()
    def fold(self) -> None:
        """Fold every norm into its layer and take it away; learned ranges must have settled before.

        Raises:
            ValueError: a weight range that is still learned.
        """
        for path, norm in self.norms.items():
            _fold(self._layers[path], norm, path=path)
        for hook in self._hooks:
            hook.remove()


@torch.no_grad()
def thaw_norms(model: nn.Module, layers: Iterable[str], run: Callable[[], object]) -> LiveNorms:
    """Give folded layers a norm on their output, in place; in eval mode the model computes what it did before.

    Their biases, which the norms take over, are not trained until these are folded.

    Args:
        model: A quantized model.
        layers: Paths of the layers that batch norms were folded into; those that do not run get none.
        run: Runs the samples that the outputs are measured on, in eval mode.

    Raises:
        ValueError: a layer without a bias, or with one step for its whole weight.
    """
    folded = {path: _checked(model.get_submodule(path), path) for path in layers}
    norms, hooks = {}, []
    for path, (total, squares, count) in _output_sums(folded, run).items():
        layer, mean = folded[path], total / count
        variance = (squares / count - mean.square()).clamp_min(0)
        norms[path] = LiveNorm(mean=mean.float(), variance=variance.float()).train(layer.training)
        layer.get_parameter("bias").requires_grad_(False)
        layer.add_module(NAME, norms[path])
        hooks.append(layer.register_forward_hook(_apply))
    return LiveNorms(norms, folded, tuple(hooks))


def _apply(layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    """Hook of a layer with a norm."""
    result: Tensor = layer.get_submodule(NAME)(output)
    return result


def _checked(layer: nn.Module, path: str) -> nn.Module:
    weights = layer.quantized_weights() if isinstance(layer, QuantizedLayer) else ()
    if any(weight.quantizer.axis is None for weight in weights) or layer._parameters.get("bias") is None:
        raise ValueError(f"a live norm needs a folded layer with a bias and a step per channel; {path} is none")
    return layer


def _output_sums(layers: Mapping[str, nn.Module], run: Callable[[], object]) -> dict[str, list[Tensor]]:
    """Per layer that ran: sums of its outputs and of their squares per channel, and how many they are; float64."""
    sums: dict[str, list[Tensor]] = {}

    def measure(path: str) -> Callable[..., None]:
        def hook(layer: nn.Module, inputs: Any, output: Tensor) -> None:
            rows = output.transpose(0, 1).flatten(1).double()
            new = [rows.sum(1), rows.square().sum(1), torch.tensor(float(rows.shape[1]), device=rows.device)]
            sums[path] = [old + more for old, more in zip(sums[path], new, strict=True)] if path in sums else new

        return hook

    handles = [layer.register_forward_hook(measure(path)) for path, layer in layers.items()]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return sums


def _fold(layer: nn.Module, norm: LiveNorm, *, path: str) -> None:
    weight, bias, factor = layer._parameters["weight"], layer._parameters["bias"], norm.factor()
    assert weight is not None and bias is not None
    for quantized in layer.quantized_weights() if isinstance(layer, QuantizedLayer) else ():
        if quantized.quantizer.trained is not None:
            raise ValueError(f"the weight range of {path} is still learned; settle the ranges first")
        quantized.quantizer.scale.copy_(quantized.quantizer.scale.double() * factor)
    turned = turned_groups(layer)
    rows = outputs_first(weight.double(), turned=turned) * factor.view(-1, *[1] * (weight.ndim - 1))
    weight.copy_(as_held(rows, turned=turned))
    bias.copy_((bias.double() - norm.running_mean.double()) * factor + norm.bias.double())
    bias.requires_grad_(weight.requires_grad)
    del layer._modules[NAME]
