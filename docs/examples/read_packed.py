"""Read a packed model with numpy alone: python read_packed.py FOLDER prints what is in it.

``weights(folder)`` gives every tensor by name, packed weights as the float32 numbers that they stand for;
``quantized(x, grid)`` does with an activation what the model does. docs/packed.md describes the files.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

VERSIONS = (1, 2)  # 2 where a weight has groups
TYPES = {"F32": "<f4", "F16": "<f2", "I32": "<i4", "I64": "<i8", "U8": "u1", "I8": "i1", "BOOL": "?"}


def config_of(folder):
    """``config.json``, whose version this program knows."""
    config = json.loads((Path(folder) / "config.json").read_text(encoding="ascii"))
    if config["qdbev"]["format_version"] not in VERSIONS:
        raise ValueError(f"format version {config['qdbev']['format_version']}, this program reads {VERSIONS}")
    return config


def tensors_of(folder, config):
    """Tensors by name as they are stored, after comparing the file's sha256."""
    content = (Path(folder) / "model.safetensors").read_bytes()
    if hashlib.sha256(content).hexdigest() != config["qdbev"]["files"]["model.safetensors"]["sha256"]:
        raise ValueError("model.safetensors was cut or changed")
    start = 8 + int.from_bytes(content[:8], "little")
    tensors = {}
    for name, entry in json.loads(content[8:start]).items():
        if name != "__metadata__":
            first, last = entry["data_offsets"]
            array = np.frombuffer(content[start + first : start + last], TYPES[entry["dtype"]])
            tensors[name] = array.reshape(entry["shape"])
    return tensors


def unpacked(words, *, bits, count):
    """Rows of int32 words -> (rows, count) integers of so many bits, signed."""
    stream = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=1, bitorder="little")
    digits = stream[:, : count * bits].reshape(len(words), count, bits)
    return (digits << np.arange(bits)).sum(axis=2) - (1 << (bits - 1))


def turned(rows, *, shape, groups):
    """Rows of output channels -> the weight of a transposed convolution, whose input channels come first."""
    return rows.reshape(groups, shape[1], shape[0] // groups, *shape[2:]).swapaxes(1, 2).reshape(shape)


def weights(folder):
    """Every tensor of the model by name, float32; of packed weights what they stand for."""
    config = config_of(folder)
    stored = tensors_of(folder, config)
    result = {}
    for name, (bits, _, _) in config["qdbev"]["weights"].items():
        words, scale, shape = (stored.pop(f"{name}_{part}") for part in ("packed", "scale", "shape"))
        rows = unpacked(words, bits=bits, count=int(np.prod(shape)) // len(words)).astype(np.float32) * scale
        groups = stored.pop(f"{name}_groups", [0])[0]
        result[name] = turned(rows, shape=shape, groups=groups) if groups else rows.reshape(shape)
    for name in grids(folder):
        stored.pop(f"{name}_scale"), stored.pop(f"{name}_offset", None)
    return result | {
        name: value.astype(np.float32) if value.dtype == np.float16 else value for name, value in stored.items()
    }


def grids(folder):
    """Name of each quantized input -> step, offset, smallest and largest integer."""
    config = config_of(folder)
    stored = tensors_of(folder, config)
    return {
        name: {
            "step": stored[f"{name}_scale"][0],
            "offset": stored[f"{name}_offset"][0] if f"{name}_offset" in stored else np.float32(0),
            "low": low,
            "high": high,
        }
        for name, (_, low, high) in config["qdbev"]["inputs"].items()
    }


def quantized(x, grid):
    """An activation on its grid."""
    steps = np.clip(np.rint((x - grid["offset"]) / grid["step"]), grid["low"], grid["high"])
    return steps * grid["step"] + grid["offset"]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    config = config_of(folder)
    held = weights(folder)
    for name, (bits, _, _) in config["qdbev"]["weights"].items():
        print(f"{bits} bits  {'x'.join(map(str, held[name].shape)):>16}  {name}")
    size = (folder / "model.safetensors").stat().st_size
    print(f"{sum(value.size for value in held.values())} numbers in {size} bytes")
