"""The detector run on the integers that a runtime found: each tap then shows what went wrong since the taps before it.

Run freely, two correct runs of a network of few bits part: where float sums lie within a rounding of a tie, one takes
the step above and the other the one below, and every later layer multiplies such differences. Run on the runtime's
integers, an error stays where it is made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qdbev.export.onnx.activations import STEPS
from qdbev.quantization import Quantizer, quantized_layers
from qdbev.quantization.grid.fake_quantize import limits_of


@dataclass
class Tap:
    """Differences at the input of one layer, in steps of its quantizer.

    Attributes:
        name: Path of the quantizer.
        largest: The largest difference.
        total: Sum of all differences.
        count: Numbers compared.
        differing: How many differ.
    """

    name: str
    largest: int = 0
    total: int = 0
    count: int = 0
    differing: int = 0

    @property
    def typical(self) -> float:
        """The mean difference."""
        return self.total / max(self.count, 1)

    @property
    def share(self) -> float:
        """Which part differs."""
        return self.differing / max(self.count, 1)

    def add(self, difference: Tensor) -> None:
        """Count some more."""
        size = difference.abs()
        self.largest = max(self.largest, int(size.max()) if size.numel() else 0)
        self.total += int(size.sum())
        self.count += size.numel()
        self.differing += int((size > 0).sum())


def input_quantizers(model: nn.Module) -> dict[str, Quantizer]:
    """Input quantizers that are on, by path."""
    layers = quantized_layers(model).values()
    return {each.name: each for layer in layers for each in layer.input_quantizers() if each.state == "on"}


@contextmanager
def forced(model: nn.Module, *, steps: Mapping[str, Tensor], taps: dict[str, Tap]) -> Iterator[None]:
    """Inside, every input quantizer gives what the runtime's integers stand for, and notes how far off its own are.

    Args:
        model: The quantized detector.
        steps: Tap of the runtime -> its bytes; a quantizer that has none works as ever.
        taps: Differences are added to these, by path of the quantizer, in the order that layers run.
    """
    with ExitStack() as stack:
        for name, quantizer in input_quantizers(model).items():
            if f"{name}{STEPS}" in steps:
                forward = _forced(quantizer, steps[f"{name}{STEPS}"], taps=taps)
                quantizer.forward = forward  # type: ignore[method-assign, assignment]
                handle = quantizer.register_forward_pre_hook(lambda *_: None)  # so that it is called at all
                stack.callback(_restore, quantizer, handle)
        yield


def _restore(quantizer: Quantizer, handle: torch.utils.hooks.RemovableHandle) -> None:
    handle.remove()
    del quantizer.forward


def _forced(quantizer: Quantizer, steps: Tensor, *, taps: dict[str, Tap]) -> Callable[[Tensor], Tensor]:
    low, _ = limits_of(quantizer.grid_bits, narrow_range=quantizer.narrow_range, unsigned=quantizer.unsigned)

    def forward(x: Tensor) -> Tensor:
        start = low if steps.dtype == torch.uint8 else 0  # signed ones are the integers themselves
        given = (steps.to(torch.int16) + start).view(x.shape)
        taps.setdefault(quantizer.name, Tap(quantizer.name)).add(quantizer.integers(x).to(torch.int16) - given)
        return quantizer.dequantize(given)

    return forward
