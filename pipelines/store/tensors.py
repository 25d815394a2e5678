"""A look into a safetensors file: its header by every rule of the format, then the numbers that only some can be.

Nothing is taken from the file on its own word: a seal that fits bytes says nothing of what the bytes hold.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

_BITS = {"F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16}
_BITS |= {"I16": 16, "U16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "I8": 8, "U8": 8, "BOOL": 8}
_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "U8": "u1", "I32": "<i4", "I64": "<i8"}
_LARGEST_HEADER = 100_000_000  # what the library itself reads at most
_PLACE_OF_BITS = 2  # in the flags of a quantizer


class Entry(NamedTuple):
    """What a header says of one tensor."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    stop: int

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


def check_safetensors(path: Path) -> dict[str, Entry]:
    """Check that the tensors a safetensors file announces are all there, and nothing else, without loading any.

    Returns:
        What the header says, tensor by tensor.

    Raises:
        ValueError: Saying what is wrong and naming the first tensor concerned.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise ValueError("its header is cut")
        if length > _LARGEST_HEADER:
            raise ValueError(f"its header has {length} bytes, which no file needs")
        entries = _entries(file.read(length))
    data_bytes, end = size - 8 - length, 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1][2:]):
        if entry.begin != end or entry.stop - entry.begin != entry.size * _BITS[entry.dtype] // 8:
            raise ValueError(f"tensor {name} does not fit its announced shape")
        if entry.stop > data_bytes:
            raise ValueError(f"tensor {name} is cut")
        end = entry.stop
    if end != data_bytes:
        raise ValueError("it holds bytes that belong to no tensor")
    return entries


def check_numbers(path: Path) -> None:
    """Check header and numbers: floats finite, ranges and variances possible, packed weights of the size they state.

    Raises:
        ValueError: Saying what is wrong and naming the tensor.
    """
    entries = check_safetensors(path)
    if not entries:
        return
    tensors = _opened(path, entries=entries)
    for name in entries:
        _check_tensor(name, entries=entries, read=tensors)
        if name.endswith("_packed"):
            _check_packed(name.removesuffix("_packed"), entries=entries, read=tensors)


def _entries(header: bytes) -> dict[str, Entry]:
    try:
        document = json.loads(header.decode("utf-8"), object_pairs_hook=_without_repetition)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise ValueError("its header is not JSON") from None
    if not isinstance(document, dict):
        raise ValueError("its header is not a JSON object")
    metadata = document.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("the metadata in its header is not text by name")
    return {name: _entry(name, stated=stated) for name, stated in document.items()}


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = sorted(name for name, _ in pairs)
    repeated = [name for name, following in pairwise(names) if name == following]
    if repeated:
        raise ValueError(f"its header names {repeated[0][:100]} twice")
    return dict(pairs)


def _entry(name: str, *, stated: Any) -> Entry:
    if not isinstance(stated, dict) or set(stated) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name} lacks dtype, shape or offsets, or has more")
    dtype, shape, offsets = stated["dtype"], stated["shape"], stated["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise ValueError(f"tensor {name} is of an unknown type")
    if not all(_are_counts(numbers) for numbers in (shape, offsets)) or len(offsets) != 2:
        raise ValueError(f"tensor {name} has an impossible shape or place")
    return Entry(dtype, tuple(shape), *offsets)


def _are_counts(numbers: Any) -> bool:
    return isinstance(numbers, list) and all(type(number) is int and number >= 0 for number in numbers)


def _opened(path: Path, *, entries: Mapping[str, Entry]) -> Callable[[str], np.ndarray[Any, Any]]:
    """What gives the numbers of a tensor; the file is mapped, not read."""
    import numpy as np  # only where tensors are looked at

    content = np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)  # its slices are quicker made
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")

    def read(name: str) -> np.ndarray[Any, Any]:
        entry = entries[name]
        stored = content[start + entry.begin : start + entry.stop]
        if entry.dtype == "BF16":  # the upper half of a float32
            return (stored.view("<u2").astype("<u4") << 16).view("<f4")
        return stored.view(_NUMPY[entry.dtype])

    return read


def _check_tensor(name: str, *, entries: Mapping[str, Entry], read: Callable[[str], np.ndarray[Any, Any]]) -> None:
    """Finite where it is a float, above zero where it is the scale of a quantizer, not below where it is a variance."""
    if entries[name].dtype not in ("F64", "F32", "F16", "BF16") or not entries[name].size:
        return
    numbers = read(name)
    least, largest = float(numbers.min()), float(numbers.max())  # a NaN comes through both
    if not (math.isfinite(least) and math.isfinite(largest)):
        raise ValueError(f"tensor {name} holds numbers that are not finite")
    owner, _, word = name.rpartition(".")
    is_scale = (word == "scale" and f"{owner}.flags" in entries) or f"{name.removesuffix('_scale')}_packed" in entries
    if is_scale and least <= 0:
        raise ValueError(f"tensor {name} holds a scale of {least:g}; scales are above zero")
    if word == "running_var" and least < 0:
        raise ValueError(f"tensor {name} holds a variance of {least:g}")


def _check_packed(weight: str, *, entries: Mapping[str, Entry], read: Callable[[str], np.ndarray[Any, Any]]) -> None:
    """The bytes of a packed weight are those of its shape and bits, its scales one or one a channel."""
    packed, shape, scale = (f"{weight}_{part}" for part in ("packed", "shape", "scale"))
    if entries[packed].dtype == "I32":  # rows of words, whose bits another file states
        _check_rows(weight, entries=entries, read=read)
        return
    flags = f"{weight}_quantizer.flags"
    types = {packed: "U8", shape: "I32", scale: "F32", flags: "U8"}
    for name, dtype in types.items():
        if name not in entries or entries[name].dtype != dtype:
            raise ValueError(f"packed weight {weight} lacks {name} of type {dtype}")
    sides, state = [int(side) for side in read(shape)], read(flags)
    if not sides or min(sides) < 1 or entries[flags].size <= _PLACE_OF_BITS:
        raise ValueError(f"packed weight {weight} has an impossible shape {sides} or no bits")
    bits = int(state[_PLACE_OF_BITS])
    if entries[packed].size != -(-math.prod(sides) * bits // 8):
        raise ValueError(
            f"packed weight {weight} has {entries[packed].size} bytes, which are not {bits} bits by its shape {sides}"
        )
    if entries[scale].shape not in ((), (_outputs(weight, sides=sides, entries=entries, read=read),)):
        raise ValueError(f"packed weight {weight} has scales of shape {entries[scale].shape} by its shape {sides}")


def _check_rows(weight: str, *, entries: Mapping[str, Entry], read: Callable[[str], np.ndarray[Any, Any]]) -> None:
    """An exported weight has a row of words and a scale for each output channel, or one scale."""
    packed, shape, scale = (entries.get(f"{weight}_{part}") for part in ("packed", "shape", "scale"))
    if packed is None or shape is None or scale is None or (shape.dtype, scale.dtype) != ("I64", "F32"):
        raise ValueError(f"packed weight {weight} lacks a shape of type I64 or scales of type F32")
    sides = [int(side) for side in read(f"{weight}_shape")]
    outputs = _outputs(weight, sides=sides, entries=entries, read=read)
    if not sides or min(sides) < 1 or len(packed.shape) != 2 or packed.shape[0] != outputs:
        raise ValueError(f"packed weight {weight} has words of shape {packed.shape} by its shape {sides}")
    if scale.shape not in ((1,), (outputs, 1)):
        raise ValueError(f"packed weight {weight} has scales of shape {scale.shape} by its shape {sides}")


def _outputs(
    weight: str, *, sides: list[int], entries: Mapping[str, Entry], read: Callable[[str], np.ndarray[Any, Any]]
) -> int:
    """Output channels of a packed weight: its first side, or of a transposed convolution its groups of second ones."""
    groups = f"{weight}_groups"
    if groups not in entries:
        return sides[0] if sides else 0
    if entries[groups].size != 1 or len(sides) < 2 or int(read(groups)[0]) < 1 or sides[0] % int(read(groups)[0]):
        raise ValueError(f"packed weight {weight} has impossible groups by its shape {sides}")
    return sides[1] * int(read(groups)[0])
