"""``Quant`` as a function: limits of every width, rounding to even, zero points; by numbers and by the definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from qdbev.export.onnx.execution import OrtSession
from qdbev.export.onnx.qonnx.definition import DOMAIN, quant_function


def quantized(x: Any, *, scale: float, bits: int, signed: int = 1, narrow: int = 0, zero: float = 0.0) -> list[float]:
    """What ONNX Runtime gives for one ``Quant``."""
    numbers = {"scale": scale, "zeropt": zero, "bitwidth": float(bits)}
    constants = [onnx.numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in numbers.items()]
    node = helper.make_node("Quant", ["x", *numbers], ["y"], domain=DOMAIN, signed=signed, narrow=narrow)
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [len(x)]) for name in ("x", "y")]
    graph = helper.make_graph([node], "quant", ports[:1], ports[1:], constants)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, functions=[quant_function(20)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return OrtSession(model).run({"x": torch.tensor(x)})["y"].tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("bits", "signed", "narrow", "limits"),
    [
        (2, 1, 0, [-2, 1]),
        (4, 1, 0, [-8, 7]),
        (4, 1, 1, [-7, 7]),
        (6, 1, 0, [-32, 31]),
        (6, 0, 0, [0, 63]),
        (6, 0, 1, [0, 62]),
        (8, 0, 0, [0, 255]),
    ],
)
def test_limits_of_widths(bits: int, signed: int, narrow: int, limits: list[float]) -> None:
    assert quantized([-1e4, 1e4], scale=1.0, bits=bits, signed=signed, narrow=narrow) == limits


def test_ties_go_to_even_integers_and_steps_are_scaled() -> None:
    assert quantized([0.25, 0.75, 1.25, -0.25, -0.75, 0.3], scale=0.5, bits=4) == [0.0, 1.0, 1.0, 0.0, -1.0, 0.5]


def test_a_zero_point_moves_the_limits() -> None:
    assert quantized([-10.0, 3.2, 20.0], scale=1.0, bits=4, signed=0, zero=5.0) == [-5.0, 3.0, 10.0]
