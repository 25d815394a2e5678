"""What a safetensors file says of itself is believed in nothing: header, packed weights and numbers are looked at."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from pipelines.store.tensors import check_numbers, check_safetensors

FLAGS = np.array([1, 0, 4, 0, 0], np.uint8)
SOUND: dict[str, Any] = {
    "conv.weight_packed": np.zeros(9, np.uint8),  # 18 weights of 4 bits
    "conv.weight_scale": np.ones(2, np.float32),
    "conv.weight_shape": np.array([2, 9], np.int32),
    "conv.weight_quantizer.flags": FLAGS,
    "conv.input_quantizer.scale": np.array(0.5, np.float32),
    "conv.input_quantizer.flags": FLAGS,
    "norm.running_var": np.zeros(3, np.float32),
    "head.scale": np.array(-1.0, np.float32),  # a parameter of that name, no quantizer's
    "conv.bias": np.array([60000.0], np.float16),
    "empty": np.zeros((0, 4), np.float32),
    "mask": np.ones(3, bool),
}


def write(path: Path, header: object, *, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_sound_tensors_of_every_kind_pass(tmp_path: Path) -> None:
    save_file(SOUND, tmp_path / "x.safetensors", metadata={"format": "pt"})
    check_numbers(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ([], b"", "not a JSON object"),
        (b"\xff\xfe", b"", "not JSON"),
        (b"[" * 100_000, b"", "not JSON"),
        (b'{"a": {}, "a": {}}', b"", "names a twice"),
        ({"__metadata__": {"x": 1}}, b"", "metadata"),
        ({"a": 3}, b"", "tensor a lacks"),
        ({"a": {"dtype": "F32", "shape": [2]}}, b"", "tensor a lacks"),
        ({"a": entry() | {"more": 1}}, bytes(8), "tensor a lacks"),
        ({"a": entry("F33")}, bytes(8), "tensor a is of an unknown type"),
        ({"a": entry(["F32"])}, bytes(8), "tensor a is of an unknown type"),
        ({"a": entry(shape=[-2, -1])}, bytes(8), "tensor a has an impossible shape"),
        ({"a": entry(shape=[2.0])}, bytes(8), "tensor a has an impossible shape"),
        ({"a": entry(shape=[True, 2])}, bytes(8), "tensor a has an impossible shape"),
        ({"a": entry(offsets=[0, 8, 9])}, bytes(8), "tensor a has an impossible shape or place"),
        ({"a": entry(offsets=[8, 0])}, bytes(8), "tensor a does not fit"),
        ({"a": entry(), "b": entry()}, bytes(8), "tensor b does not fit"),
        ({"a": entry(), "b": entry(offsets=[9, 17])}, bytes(17), "tensor b does not fit"),
        ({"a": entry()}, bytes(7), "tensor a is cut"),
        ({"a": entry()}, bytes(9), "belong to no tensor"),
        ({}, bytes(1), "belong to no tensor"),
    ],
)
def test_a_header_that_lies_is_found(tmp_path: Path, header: object, data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_safetensors(write(tmp_path / "x.safetensors", header, data=data))


def test_a_header_larger_than_any_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write((200_000_000).to_bytes(8, "little"))
        file.truncate(300_000_000)  # a hole: no disk is taken
    with pytest.raises(ValueError, match="which no file needs"):
        check_safetensors(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(place=st.integers(0, 10_000), value=st.integers(0, 255))
def test_what_the_library_refuses_is_refused(tmp_path: Path, place: int, value: int) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": np.ones(3, np.float32), "b": np.zeros((2, 2), np.int8)}, path)
    content = bytearray(path.read_bytes())
    content[place % len(content)] = value
    path.write_bytes(content)
    try:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118, it is no mapping
                file.get_tensor(name)
    except (SafetensorError, ValueError, TypeError):
        with pytest.raises(ValueError):
            check_safetensors(path)


def changed(name: str, value: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {key: entry for key, entry in (SOUND | {name: value}).items() if entry is not None}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (changed("conv.bias", np.array([np.nan], np.float32)), "conv.bias holds numbers that are not finite"),
        (changed("conv.bias", np.array([1, -np.inf], np.float16)), "conv.bias holds numbers that are not finite"),
        (changed("conv.bias", np.array([np.inf, np.nan])), "conv.bias holds numbers that are not finite"),
        (changed("conv.weight_scale", np.array([1, 0], np.float32)), "conv.weight_scale holds a scale of 0"),
        (changed("conv.weight_scale", np.array([1, np.nan], np.float32)), "conv.weight_scale .* not finite"),
        (
            changed("conv.weight_scale", np.array([1, 1, 1], np.float32)),
            r"scales of shape \(3,\) by its shape \[2, 9\]",
        ),
        (changed("conv.weight_scale", np.array([1, 1], np.float16)), "lacks conv.weight_scale of type F32"),
        (changed("conv.weight_scale", None), "packed weight conv.weight lacks conv.weight_scale"),
        (changed("conv.weight_shape", np.array([2, 8], np.int32)), "9 bytes, which are not 4 bits"),
        (changed("conv.weight_shape", np.array([-2, -9], np.int32)), "impossible shape"),
        (changed("conv.weight_shape", np.zeros(0, np.int32)), "impossible shape"),
        (changed("conv.weight_quantizer.flags", FLAGS + 1), "9 bytes, which are not 5 bits"),
        (changed("conv.weight_quantizer.flags", FLAGS[:2]), "no bits"),
        (
            changed("conv.input_quantizer.scale", np.array(-0.5, np.float32)),
            "input_quantizer.scale holds a scale of -0.5",
        ),
        (changed("norm.running_var", np.array([1, -1e-3], np.float32)), "norm.running_var holds a variance of -0.001"),
    ],
)
def test_numbers_that_cannot_be_are_found(tmp_path: Path, tensors: Callable[[], dict[str, Any]], message: str) -> None:
    save_file(tensors(), tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=message):
        check_numbers(tmp_path / "x.safetensors")


@pytest.mark.parametrize(("upper", "sound"), [(b"\x80\x3f", True), (b"\x80\x7f", False), (b"\xc0\xff", False)])
def test_bfloat16_is_read(tmp_path: Path, upper: bytes, sound: bool) -> None:
    path = write(tmp_path / "x.safetensors", {"a": entry("BF16", [1], [0, 2])}, data=upper)
    if sound:
        check_numbers(path)
    else:
        with pytest.raises(ValueError, match="tensor a holds numbers that are not finite"):
            check_numbers(path)
