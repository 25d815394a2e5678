"""Packed weights: integers of 2 to 8 bits laid densely into bytes, and a whole model as a dict of small tensors.

Layout: element ``i`` of the flattened tensor is stored as ``u = q + 2^(k-1)`` in bits ``i k ... i k + k - 1`` of the
byte stream, least significant bit first. At four bits that is two elements per byte, the first in the low nibble, which
is byte for byte the int32 layout of compressed-tensors where a row fills whole words.

Names: a weight ``X.weight`` becomes ``X.weight_packed`` (uint8), ``X.weight_scale`` (float32) and ``X.weight_shape``
(int32); everything else keeps its name. The integers lie output channel by output channel: a transposed convolution,
whose weight has them second, has ``X.weight_groups`` (int32) beside, which says how to turn them back. The law, tested:
what is unpacked equals ``fake_quantize`` of the weight.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from qdbev.quantization.grid.integers import check_bits, dequantize
from qdbev.quantization.layers.grid_state import BITS, FOLLOWS, HAS_RANGE
from qdbev.quantization.layers.quantized import QuantizedLayer, QuantizedWeight, quantizer_of
from qdbev.quantization.layers.quantizer import Quantizer
from qdbev.quantization.planning.output_channels import as_held, rows_shape
from qdbev.quantization.planning.sharing import memory_of

MAX_PACKED_BITS = 8

_PACKED, _SCALE, _SHAPE, _GROUPS = "_packed", "_scale", "_shape", "_groups"


def pack_bits(integers: Tensor, *, bits: int) -> Tensor:
    """Pack signed integers of ``bits`` bits into bytes.

    Args:
        integers: Any shape, values in ``[-2^(bits-1), 2^(bits-1) - 1]``.
        bits: 2..8.

    Returns:
        uint8, ``ceil(n bits / 8)`` bytes; unused high bits of the last byte are zero.

    At four bits -8, 7, 0 are 0, 15, 8, low nibble first:

    >>> pack_bits(torch.tensor([-8, 7, 0]), bits=4).tolist()
    [240, 8]
    """
    half = 1 << (_check_packed(bits) - 1)
    flat = integers.reshape(-1).to(torch.int16) + half
    if flat.numel() and not 0 <= int(flat.min()) <= int(flat.max()) < 2 * half:
        raise ValueError(
            f"integers must lie in [{-half}, {half - 1}] for {bits} bits, got {integers.min()}..{integers.max()}"
        )
    stream = (flat[:, None] >> torch.arange(bits, device=flat.device, dtype=torch.int16)) & 1
    padded = nn.functional.pad(stream.reshape(-1).to(torch.uint8), (0, -stream.numel() % 8))
    return (padded.view(-1, 8) << torch.arange(8, device=flat.device, dtype=torch.uint8)).sum(1, dtype=torch.uint8)


def packed_bytes(count: int, *, bits: int) -> int:
    """Return the bytes of ``count`` integers of 2 to 8 bits; the last byte may have bits to spare.

    >>> packed_bytes(3, bits=4)
    2
    """
    return -(-count * _check_packed(bits) // 8)


def unpack_bits(packed: Tensor, *, bits: int, count: int) -> Tensor:
    """Return the ``count`` integers of ``pack_bits``, int8, flat.

    >>> unpack_bits(torch.tensor([240, 8], dtype=torch.uint8), bits=4, count=3).tolist()
    [-8, 7, 0]
    """
    expected = packed_bytes(count, bits=bits)
    if packed.dtype != torch.uint8 or packed.numel() != expected:
        raise ValueError(
            f"{count} integers of {bits} bits are {expected} bytes of uint8, got {packed.numel()} of {packed.dtype}"
        )
    stream = (packed.reshape(-1, 1) >> torch.arange(8, device=packed.device, dtype=torch.uint8)) & 1
    digits = stream.reshape(-1)[: count * bits].view(count, bits).to(torch.int16)
    values = (digits << torch.arange(bits, device=packed.device, dtype=torch.int16)).sum(1, dtype=torch.int16)
    return (values - (1 << (bits - 1))).to(torch.int8)


def pack_model(model: nn.Module, *, rest: Literal["fp16", "fp32"] = "fp16") -> dict[str, Tensor]:
    """Return the state of a quantized model with its quantized weights as packed integers.

    What has several names is one tensor under all of them; a weight that a float layer holds too is not there for it.
    Weight ranges are frozen in the result: a range that followed the dequantized weight would be another one.

    Args:
        model: A quantized model whose weight quantizers have ranges.
        rest: Type of the other float tensors (biases, norms, raw parameters). Scales and offsets stay float32, and so
            does a tensor that float16 cannot hold.

    Raises:
        ValueError: a weight quantizer without a range, or wider than 8 bits.
    """
    if rest not in ("fp16", "fp32"):
        raise ValueError(f"rest must be fp16 or fp32, got {rest!r}")
    tensors: dict[str, Tensor] = {}
    packed: dict[Hashable, dict[str, Tensor]] = {}
    scales: set[str] = set()
    for path, layer in model.named_modules(remove_duplicate=False):
        if isinstance(layer, QuantizedLayer):
            for weight in layer.quantized_weights():
                name, memory = f"{path}.{weight.name}" if path else weight.name, memory_of(weight.value)
                if memory not in packed:
                    packed[memory] = _pack_weight(weight)
                tensors.update({name + suffix: value for suffix, value in packed[memory].items()})
                scales.add(f"{quantizer_of(name)}.scale")
    grids, others = _grids(model), dict[Hashable, Tensor]()
    for name, value in model.state_dict().items():
        identity = _identity(name, value)
        if memory_of(value) not in packed and name not in scales and name not in tensors:
            if identity not in others:
                small = rest == "fp16" and name not in grids
                others[identity] = (_to_half(value) if small else value).detach().clone()
            tensors[name] = others[identity]
    return tensors


def unpack_model(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict of the quantized model: weights on their grid, everything in float32.

    Args:
        tensors: What ``pack_model`` returned.

    Raises:
        ValueError: a tensor of a packed weight is missing or of the wrong size.
    """
    state: dict[str, Tensor] = {}
    used: set[str] = set()
    for name in tensors:
        if not name.endswith(_PACKED):
            continue
        weight = name.removesuffix(_PACKED)
        needed = [weight + _SCALE, weight + _SHAPE, f"{quantizer_of(weight)}.flags"]
        absent = [key for key in needed if key not in tensors]
        if absent:
            raise ValueError(f"packed weight {weight} lacks {', '.join(absent)}; the file is incomplete")
        scale, shape = tensors[needed[0]], [int(side) for side in tensors[needed[1]]]
        turned = int(tensors.get(weight + _GROUPS, 0))
        state[weight] = _unpack_weight(
            tensors[name], scale=scale, shape=shape, bits=int(tensors[needed[2]][BITS]), name=weight, turned=turned
        )
        state[f"{quantizer_of(weight)}.scale"] = scale.clone()
        used.update((name, weight + _SCALE, weight + _SHAPE, weight + _GROUPS))
    for name, value in tensors.items():
        if name not in used:
            state[name] = value.to(torch.float32) if value.dtype == torch.float16 else value.clone()
    return state


def size_bytes(tensors: Mapping[str, Tensor]) -> int:
    """Return the bytes of the tensors themselves, without the header of a file; one with several names counts once.

    >>> size_bytes({"a": torch.zeros(3, dtype=torch.uint8), "b": torch.zeros(2)})
    11
    """
    once = {_identity(name, value): value for name, value in tensors.items()}
    return sum(value.numel() * value.element_size() for value in once.values())


def packed_size_bytes(model: nn.Module) -> int:
    """Return the bytes that ``pack_model`` would take with float16 for the rest, from shapes alone.

    Args:
        model: A quantized model, on any device (``meta`` too), with or without ranges.

    Raises:
        ValueError: a weight quantizer wider than 8 bits.
    """
    sizes: dict[Hashable, int] = {}
    for layer in model.modules():
        if isinstance(layer, QuantizedLayer):
            for weight in layer.quantized_weights():
                integers = packed_bytes(weight.value.numel(), bits=weight.quantizer.bits)
                numbers = weight.value.ndim + (weight.turned > 0)
                sizes[memory_of(weight.value)] = integers + numbers * torch.int32.itemsize
    packed, grids = set(sizes), _grids(model)
    for name, value in model.state_dict().items():
        wide = name in grids or value.dtype not in (torch.float32, torch.float64)
        if memory_of(value) not in packed:
            width = value.element_size() if wide else torch.float16.itemsize
            sizes[_identity(name, value)] = value.numel() * width
    return sum(sizes.values())


def _identity(name: str, value: Tensor) -> Hashable:
    """The same for two names of one tensor; of a view that begins where another tensor does it is another."""
    return (memory_of(value), value.shape, value.stride()) if value.numel() else name


def _grids(model: nn.Module) -> set[str]:
    """Names of the tensors that say where a grid lies; they stay float32."""
    quantizers = (name for name, module in model.named_modules(remove_duplicate=False) if isinstance(module, Quantizer))
    return {f"{name}.{tensor}" for name in quantizers for tensor in ("scale", "offset")}


def _check_packed(bits: int) -> int:
    if check_bits(bits) > MAX_PACKED_BITS:
        raise ValueError(f"packing holds 2 to {MAX_PACKED_BITS} bits, got {bits}")
    return bits


def _pack_weight(weight: QuantizedWeight) -> dict[str, Tensor]:
    """Return by suffix of its name the packed weight, and the flags of its quantizer with the range frozen."""
    quantizer = weight.quantizer
    integers = quantizer.integers(weight.rows)
    flags = quantizer.flags.clone()
    flags[HAS_RANGE], flags[FOLLOWS] = 1, 0
    groups = {_GROUPS: torch.tensor(weight.turned, dtype=torch.int32)} if weight.turned else {}
    return groups | {
        _PACKED: pack_bits(integers, bits=quantizer.bits),
        _SCALE: quantizer.scale.detach().clone(),
        _SHAPE: torch.tensor(weight.value.shape, dtype=torch.int32),
        f"{quantizer_of('')}.flags": flags,
    }


def _unpack_weight(packed: Tensor, *, scale: Tensor, shape: list[int], bits: int, name: str, turned: int) -> Tensor:
    rows = rows_shape(shape, turned=turned)
    try:
        integers = unpack_bits(packed, bits=bits, count=torch.Size(shape).numel()).view(rows)
    except ValueError as error:
        raise ValueError(f"packed weight {name}: {error}") from error
    values = dequantize(integers, scale=scale, axis=0 if scale.ndim else None)
    return as_held(values, turned=turned).contiguous()


def _to_half(value: Tensor) -> Tensor:
    """Return float32 as float16 where it fits; integers and huge values as they are."""
    if value.dtype not in (torch.float32, torch.float64):
        return value
    half = value.to(torch.float16)
    return half if bool(torch.isfinite(half).all()) else value
