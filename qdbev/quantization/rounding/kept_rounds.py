"""What rounding layer by layer has done, as tensors by name: one that was stopped goes on from there, bit for bit.

blocks, rounds    numbers of the blocks that ran, in their order; how many rounds are done
N.mean            mean of the input of block N in float; empty for a method that does not need it
N.weight, N.scale, N.bias, N.errors    of a block that is rounded
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qdbev.quantization.layers.quantized import QuantizedLayer
from qdbev.quantization.rounding.blocks import Block, tensors_of


@dataclass
class Rounds:
    """What is done.

    Attributes:
        means: block -> mean of its input in float, in the order that blocks run.
        errors: block -> as in ``Compensation``, of those rounded.
        done: how many rounds.
    """

    means: dict[Block, Tensor] = field(default_factory=dict)
    errors: dict[Block, tuple[float, float]] = field(default_factory=dict)
    done: int = 0

    def tensors(self, *, blocks: Sequence[Block], layers: Mapping[str, QuantizedLayer]) -> dict[str, Tensor]:
        """All of it, with what rounding has made of the layers.

        Args:
            blocks: All that may be rounded, which gives each its number.
            layers: Path -> layer, as they are now.
        """
        number = {block: index for index, block in enumerate(blocks)}
        kept = {f"{number[block]}.mean": mean for block, mean in self.means.items()}
        for block, errors in self.errors.items():
            for name, tensor in _rounded(block, layers=layers).items():
                kept[f"{number[block]}.{name}"] = tensor
            kept[f"{number[block]}.errors"] = torch.tensor(errors, dtype=torch.float64)
        order = torch.tensor([number[block] for block in self.means], dtype=torch.int64)
        return kept | {"blocks": order, "rounds": torch.tensor(self.done)}


def taken_up(kept: Mapping[str, Tensor], *, blocks: Sequence[Block], layers: Mapping[str, QuantizedLayer]) -> Rounds:
    """What was kept, the rounded blocks written into the layers; nothing is done where nothing was kept.

    Raises:
        ValueError: It is of other layers.
    """
    if not kept:
        return Rounds()
    try:
        order = [(index, blocks[index]) for index in kept["blocks"].tolist()]
        means = {block: kept[f"{index}.mean"].to(_device(layers)) for index, block in order}
        rounded = [(index, block) for index, block in order if f"{index}.errors" in kept]
        for index, block in rounded:
            for name, tensor in _rounded(block, layers=layers).items():
                tensor.copy_(kept[f"{index}.{name}"].view_as(tensor))
        errors = {block: _pair(kept[f"{index}.errors"]) for index, block in rounded}
        return Rounds(means, errors, int(kept["rounds"]))
    except (KeyError, IndexError, RuntimeError) as error:
        raise ValueError(f"what was kept of an earlier rounding is of other layers ({error})") from error


def _rounded(block: Block, *, layers: Mapping[str, QuantizedLayer]) -> dict[str, Tensor]:
    """Views of what rounding changes in a layer."""
    tensors = tensors_of(block, layer=layers[block.layer])
    bias = {} if tensors.bias is None else {"bias": tensors.bias}
    return {"weight": tensors.weight, "scale": tensors.scale, **bias}


def _pair(errors: Tensor) -> tuple[float, float]:
    nearest, now = errors.tolist()
    return nearest, now


def _device(layers: Mapping[str, QuantizedLayer]) -> torch.device:
    return next(weight.value.device for layer in layers.values() for weight in layer.quantized_weights())
