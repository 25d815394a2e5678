"""What block reconstruction has done, as tensors by name: one that was stopped goes on from there, bit for bit.

rounds, generator    how many units are done; the state of what draws
N.errors             of unit N, or N.refused: why it was left, as UTF-8
N.PATH               weights of its layers, and the ranges of their inputs, as learned
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qdbev.quantization.layers.quantized import QuantizedLayer
from qdbev.quantization.rounding.units import Unit

Layers = Mapping[str, QuantizedLayer]


@dataclass
class Units:
    """What is done.

    Attributes:
        errors: unit -> as in ``Reconstruction``.
        refused: unit that was left as calibrated -> why.
    """

    errors: dict[Unit, tuple[float, float]] = field(default_factory=dict)
    refused: dict[Unit, str] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """How many units."""
        return len(self.errors) + len(self.refused)

    def tensors(self, *, units: Sequence[Unit], layers: Layers, generator: torch.Generator) -> dict[str, Tensor]:
        """All of it, with what the layers are now.

        Args:
            units: All, in their order; the first ones are done.
            layers: Path -> layer.
            generator: What draws.
        """
        kept = {"rounds": torch.tensor(self.done), "generator": generator.get_state()}
        for index, unit in enumerate(units[: self.done]):
            if unit in self.refused:
                kept[f"{index}.refused"] = torch.tensor(list(self.refused[unit].encode()), dtype=torch.uint8)
            else:
                kept[f"{index}.errors"] = torch.tensor(self.errors[unit], dtype=torch.float64)
                kept |= {f"{index}.{name}": tensor for name, tensor in _learned(unit, layers=layers)}
        return kept


def taken_up(kept: Mapping[str, Tensor], *, units: Sequence[Unit], layers: Layers, generator: torch.Generator) -> Units:
    """What was kept, written into layers and generator; nothing is done where nothing was kept.

    Raises:
        ValueError: It is of other layers.
    """
    work = Units()
    if not kept:
        return work
    try:
        for index, unit in enumerate(units[: int(kept["rounds"])]):
            if f"{index}.refused" in kept:
                work.refused[unit] = bytes(kept[f"{index}.refused"].tolist()).decode()
                continue
            before, after = kept[f"{index}.errors"].tolist()
            work.errors[unit] = (before, after)
            for name, tensor in _learned(unit, layers=layers):
                tensor.copy_(kept[f"{index}.{name}"].view_as(tensor))
        generator.set_state(kept["generator"])
    except (KeyError, IndexError, RuntimeError) as error:
        raise ValueError(f"what was kept of an earlier reconstruction is of other layers ({error})") from error
    return work


def _learned(unit: Unit, *, layers: Layers) -> Iterator[tuple[str, Tensor]]:
    """Weights and state of input quantizers of a unit, by path."""
    for path in unit.layers:
        for weight in layers[path].quantized_weights():
            yield f"{path}.{weight.name}", weight.value
        for number, quantizer in enumerate(layers[path].input_quantizers()):
            yield from ((f"{path}.{number}.{name}", buffer) for name, buffer in quantizer.named_buffers())
