"""What the quantizers of a model have seen so far, as tensors by name: calibration that was stopped goes on from there.

``<quantizer>/<what its observer remembers>``, of those that observe.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from qdbev.quantization.layers.quantizer import Quantizer
from qdbev.quantization.layers.swap import quantized_layers


def observed(model: nn.Module) -> dict[str, Tensor]:
    """All of it, inside ``observing``."""
    return {
        f"{quantizer.name}/{name}": tensor
        for quantizer in _observing(model)
        for name, tensor in quantizer.observed().items()
    }


def observe_on(model: nn.Module, kept: Mapping[str, Tensor]) -> None:
    """Let the quantizers go on from what ``observed`` gave, inside ``observing``.

    Args:
        model: Of the same plan and settings.
        kept: On the device of the values that will be seen.

    Raises:
        ValueError: It is of other quantizers.
    """
    by_quantizer: dict[str, dict[str, Tensor]] = {}
    for path, tensor in kept.items():
        owner, _, name = path.rpartition("/")
        by_quantizer.setdefault(owner, {})[name] = tensor
    try:
        for quantizer in _observing(model):
            quantizer.observe_on(by_quantizer[quantizer.name])
    except KeyError as error:
        raise ValueError(f"what was kept of an earlier calibration is of other quantizers ({error})") from error


def _observing(model: nn.Module) -> Iterator[Quantizer]:
    for layer in quantized_layers(model).values():
        yield from (quantizer for quantizer in layer.input_quantizers() if quantizer.state == "observing")
