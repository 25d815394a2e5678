"""The state of a quantized model in a packed file, and back: integers as words, small tensors, limits of each grid.

Names are those of compressed-tensors where it has any: ``X.weight`` becomes ``X.weight_packed``, ``X.weight_scale`` and
``X.weight_shape``, with ``X.weight_groups`` where output channels are not first (of a transposed convolution); the
input grid of a layer is ``X.input_scale``, with ``X.input_offset`` where integer 0 stands for another value than 0. All
else keeps its name. The law, tested: what comes back is what went in, bit for bit.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from qdbev.export.packed.words import pack_rows, unpack_rows
from qdbev.quantization import Quantizer, dequantize, memory_of, quantized_layers
from qdbev.quantization.grid.fake_quantize import limits_of
from qdbev.quantization.layers.grid_state import BITS, FOLLOWS, HAS_RANGE, UNSIGNED
from qdbev.quantization.layers.quantized import QuantizedWeight
from qdbev.quantization.planning.output_channels import as_held, rows_shape

_QUANTIZER = "_quantizer"


class Limits(NamedTuple):
    """The integers of a grid."""

    bits: int
    """Width."""
    low: int
    """The smallest integer; 0 where they are unsigned."""
    high: int
    """The largest."""


@dataclass(frozen=True)
class PackedState:
    """What a packed file holds of a model."""

    tensors: dict[str, Tensor]
    """By name in the file."""
    weights: dict[str, Limits]
    """Name of each packed weight, such as ``neck.conv.weight`` -> its grid."""
    inputs: dict[str, Limits]
    """Name of each quantized input, such as ``neck.conv.input`` -> its grid."""


def packed_state(model: nn.Module) -> PackedState:
    """Pack the state of a quantized model.

    Args:
        model: Its weight quantizers have ranges of 2 to 8 bits. Float tensors become float16 where that holds them, as
            in a sealed artifact; of what was loaded from one nothing changes.

    Raises:
        ValueError: a weight quantizer without a range, or wider than 8 bits.
    """
    tensors: dict[str, Tensor] = {}
    weights: dict[str, Limits] = {}
    seen: set[Hashable] = set()
    for path, layer in quantized_layers(model).items():
        for weight in layer.quantized_weights():
            if (memory := memory_of(weight.value)) in seen:
                continue
            seen.add(memory)
            name = f"{path}.{weight.name}" if path else weight.name
            tensors |= _packed_weight(name, weight)
            weights[name] = _limits(weight.quantizer)
    inputs = dict(_inputs(model, weights=weights))
    for name, quantizer in _quantizers(model):
        grid = name.removesuffix(_QUANTIZER)
        if grid in inputs:
            tensors[f"{grid}_scale"] = quantizer.scale.detach().reshape(1).clone()
            if quantizer.offset is not None:
                tensors[f"{grid}_offset"] = quantizer.offset.detach().reshape(1).clone()
    return PackedState(tensors | _rest(model, packed=seen), weights, inputs)


def unpacked_state(packed: PackedState, *, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of the quantized model, weights on their grid, the rest in float32.

    Args:
        packed: What ``packed_state`` returned.
        like: The state dict of a model quantized in the same way, whose quantizers say what else they are.

    Raises:
        ValueError: a tensor is missing or of the wrong size, or a grid is another one than that of the model.
    """
    tensors, state = packed.tensors, dict[str, Tensor]()
    used: set[str] = set()
    for name, limits in packed.weights.items():
        parts = [f"{name}_{part}" for part in ("packed", "scale", "shape")]
        words, scale, shape = (_tensor(tensors, part) for part in parts)
        scale = scale.reshape(-1) if scale.ndim == 2 else scale.reshape(())
        turned = int(tensors.get(f"{name}_groups", 0))
        state[name] = _unpacked_weight(name, words=words, scale=scale, shape=shape, bits=limits.bits, turned=turned)
        state |= _grid_state(f"{name}{_QUANTIZER}", scale=scale, limits=limits, like=like)
        used.update((*parts, f"{name}_groups"))
    for name, limits in packed.inputs.items():
        scale = _tensor(tensors, f"{name}_scale").reshape(())
        state |= _grid_state(f"{name}{_QUANTIZER}", scale=scale, limits=limits, like=like)
        if f"{name}_offset" in tensors:
            state[f"{name}{_QUANTIZER}.offset"] = tensors[f"{name}_offset"].reshape(())
        used.update((f"{name}_scale", f"{name}_offset"))
    for name, value in tensors.items():
        if name not in used:
            state[name] = value.to(torch.float32) if value.dtype == torch.float16 else value
    return state


def _packed_weight(name: str, weight: QuantizedWeight) -> dict[str, Tensor]:
    quantizer = weight.quantizer
    integers = quantizer.integers(weight.rows)  # a range that follows is brought up to date by it
    rows = integers.reshape(integers.shape[0], -1).cpu().numpy()
    scale = quantizer.scale.detach().cpu().clone()
    groups = {f"{name}_groups": torch.tensor([weight.turned])} if weight.turned else {}
    return groups | {
        f"{name}_packed": torch.from_numpy(pack_rows(rows, bits=quantizer.bits)),
        f"{name}_scale": scale.reshape(-1, 1) if scale.ndim else scale.reshape(1),
        f"{name}_shape": torch.tensor(weight.value.shape, dtype=torch.int64),
    }


def _unpacked_weight(name: str, *, words: Tensor, scale: Tensor, shape: Tensor, bits: int, turned: int) -> Tensor:
    held = [int(side) for side in shape.reshape(-1)]
    sides = rows_shape(held, turned=turned)
    if not sides or min(sides) < 1 or sides[0] != words.shape[0] or scale.numel() not in (1, sides[0]):
        raise ValueError(f"packed weight {name} of shape {held} has {words.shape[0]} rows and {scale.numel()} scales")
    try:
        integers = unpack_rows(words.numpy(), bits=bits, count=int(np.prod(sides[1:], dtype=np.int64)))
    except ValueError as error:
        raise ValueError(f"packed weight {name}: {error}") from error
    values = dequantize(torch.from_numpy(integers).view(sides), scale=scale, axis=0 if scale.ndim else None)
    return as_held(values, turned=turned).contiguous()


def _limits(quantizer: Quantizer) -> Limits:
    if quantizer.trained is not None:
        raise ValueError(f"the range of {quantizer.name} is still learned; settle the ranges before packing")
    bits, narrow = quantizer.grid_bits, quantizer.narrow_range
    return Limits(quantizer.bits, *limits_of(bits, narrow_range=narrow, unsigned=quantizer.unsigned))


def _quantizers(model: nn.Module) -> Iterator[tuple[str, Quantizer]]:
    """Quantizers by their first name."""
    for name, module in model.named_modules():
        if isinstance(module, Quantizer):
            yield name, module


def _inputs(model: nn.Module, *, weights: Mapping[str, Limits]) -> Iterator[tuple[str, Limits]]:
    """Names of the quantized inputs through which calibration saw something pass."""
    for name, quantizer in _quantizers(model):
        grid = name.removesuffix(_QUANTIZER)
        if grid not in weights and quantizer.has_range:
            yield grid, _limits(quantizer)


def _rest(model: nn.Module, *, packed: set[Hashable]) -> dict[str, Tensor]:
    """All other tensors, each under its first name."""
    modules = model.named_modules(remove_duplicate=False)
    grids = tuple(f"{name}." for name, module in modules if isinstance(module, Quantizer))
    rest: dict[str, Tensor] = {}
    seen: set[Hashable] = set()
    for name, value in model.state_dict(keep_vars=True).items():
        identity = (memory_of(value), value.shape) if value.numel() else name
        if memory_of(value) in packed or identity in seen or name.startswith(grids):
            continue
        seen.add(identity)
        rest[name] = _to_half(value.detach()).cpu().contiguous().clone()
    return rest


def _to_half(value: Tensor) -> Tensor:
    if value.dtype not in (torch.float32, torch.float64):
        return value
    half = value.to(torch.float16)
    return half if bool(torch.isfinite(half).all()) else value


def _grid_state(quantizer: str, *, scale: Tensor, limits: Limits, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scale and flags of a quantizer, the flags but for the range as the model has them."""
    flags = _tensor(like, f"{quantizer}.flags").clone()
    if int(flags[BITS]) != limits.bits:
        raise ValueError(f"{quantizer} has {limits.bits} bits in the file and {int(flags[BITS])} in the model")
    flags[HAS_RANGE], flags[FOLLOWS] = UNSIGNED if limits.low == 0 else 1, 0
    return {f"{quantizer}.scale": scale, f"{quantizer}.flags": flags}


def _tensor(tensors: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise ValueError(f"there is no tensor {name}")
    return tensors[name]
