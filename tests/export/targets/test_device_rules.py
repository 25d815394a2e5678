"""Rules of graphs for devices: each is broken by a small graph of its own, and the sentence says node and rule."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ml_dtypes = pytest.importorskip("ml_dtypes")

from qdbev.export.targets.device_rules import DEVICE_RULES  # noqa: E402
from qdbev.export.targets.structure import breaches  # noqa: E402

helper = onnx.helper
Node = tuple[str, Sequence[str], dict[str, Any]]
OPSET = {"tensorrt": 19, "qnn": 21}


def graph(
    *nodes: Node, opset: int, shape: Sequence[Any] = (1, 40, 4, 4), constants: dict[str, Any] | None = None
) -> Any:
    """A graph of one input ``x``; each node gives ``<kind><place>``, and is named so."""
    names = [f"{kind}{place}" for place, (kind, _, _) in enumerate(nodes)]
    made = [
        helper.make_node(kind, list(inputs), [name], name=name, **attributes)
        for name, (kind, inputs, attributes) in zip(names, nodes, strict=True)
    ]
    tensors = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)
    output = helper.make_empty_tensor_value_info(names[-1])
    body = helper.make_graph(made, "broken", [x], [output], tensors)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)])


F, SMALL = np.float32, ml_dtypes.int4
ZERO8, ZERO = np.int8(0), np.uint8(0)
STEP = {"s": F(0.1), "z8": ZERO8, "z": ZERO, "z1": np.uint8(1)}
POINTWISE = {"w": np.ones((40, 40, 1, 1), np.int8), "ws": np.full(40, 0.1, F)}


def quantized(zero: str) -> list[Node]:
    return [("QuantizeLinear", ["x", "s", zero], {}), ("DequantizeLinear", ["QuantizeLinear0", "s", zero], {})]


def product(kind: str, weight: Any, *, axis: int, zero: str, opset: int, scales: int, **attributes: Any) -> Any:
    """Input and weight on grids, multiplied."""
    nodes = [
        *quantized(zero),
        ("DequantizeLinear", ["w", "ws"], {"axis": axis}),
        (kind, ["DequantizeLinear1", "DequantizeLinear2"], attributes),
    ]
    constants = {**STEP, "w": weight, "ws": np.full(scales, 0.1, F)}
    return graph(*nodes, opset=opset, constants=constants, shape=(1, 40, 4, 40))


def clip(zero: str, opset: int) -> Any:
    nodes: list[Node] = [
        ("QuantizeLinear", ["x", "s", zero], {}),
        ("Clip", ["QuantizeLinear0", zero, "most"], {}),
        ("DequantizeLinear", ["Clip1", "s", zero], {}),
    ]
    return graph(*nodes, opset=opset, constants={**STEP, "most": STEP[zero] + 63})


def cast(opset: int) -> Any:
    nodes: list[Node] = [("Cast", ["w"], {"to": 1}), ("Add", ["x", "Cast0"], {})]
    return graph(*nodes, opset=opset, constants={"w": np.ones(4, SMALL)})


def sampled(opset: int, **attributes: Any) -> Any:
    nodes: list[Node] = [
        ("GridSample", ["x", "places"], attributes),
        ("Mul", ["GridSample0", "GridSample0"], {}),
        ("ReduceSum", ["Mul1", "last"], {}),
    ]
    constants = {"places": np.zeros((1, 3, 2, 2), F), "last": np.array([-1])}
    return graph(*nodes, opset=opset, constants=constants)


def simple(kind: str, inputs: Sequence[str], *, opset: int, **attributes: Any) -> Any:
    constants = attributes.pop("constants", {})
    return graph((kind, inputs, attributes), opset=opset, constants=constants)


def four_bits(outputs: int, *, kernel: int = 1, opset: int = 21, zero: str = "z", **attributes: Any) -> Any:
    weight = np.ones((outputs, 40, kernel, kernel), SMALL)
    return product("Conv", weight, axis=0, zero=zero, opset=opset, scales=outputs, **attributes)


def with_bias(step: float) -> Any:
    nodes = [
        *quantized("z"),
        ("DequantizeLinear", ["w", "ws"], {"axis": 0}),
        ("DequantizeLinear", ["b", "bs"], {"axis": 0}),
        ("Conv", ["DequantizeLinear1", "DequantizeLinear2", "DequantizeLinear3"], {}),
    ]
    bias = {"b": np.ones(40, np.int32), "bs": np.full(40, step, F)}
    return graph(*nodes, opset=21, constants={**STEP, **POINTWISE, **bias})


def input_by_channel(zero: Any, opset: int) -> Any:
    constants = {"s": np.full(40, 0.1, F), "z": np.full(40, zero)}
    return graph(("QuantizeLinear", ["x", "s", "z"], {"axis": 1}), opset=opset, constants=constants)


BROKEN = {
    ("tensorrt", "opset"): (simple("Relu", ["x"], opset=8), "opset 8"),
    ("tensorrt", "operators"): (simple("Bernoulli", ["x"], opset=19), "Bernoulli Bernoulli0"),
    ("tensorrt", "symmetric"): (graph(*quantized("z1"), opset=19, constants=STEP), "QuantizeLinear0"),
    ("tensorrt", "integer types"): (graph(*quantized("z"), opset=19, constants=STEP), "QuantizeLinear0"),
    ("tensorrt", "constant scales"): (
        graph(
            ("ReduceMax", ["x"], {"keepdims": 0}), ("QuantizeLinear", ["x", "ReduceMax0", "z8"], {}),
            opset=19, constants=STEP,
        ),
        "QuantizeLinear1",
    ),
    ("tensorrt", "scales of inputs"): (input_by_channel(ZERO8, 19), "QuantizeLinear0"),
    ("tensorrt", "axis"): (
        product("MatMul", np.ones((40, 40), np.int8), axis=0, zero="z8", opset=19, scales=40),
        "DequantizeLinear2",
    ),
    ("tensorrt", "INT4 is static"): (
        graph(("QuantizeLinear", ["x", "s", "z4"], {}), opset=21, constants={"s": F(1), "z4": np.zeros((), SMALL)}),
        "QuantizeLinear0",
    ),
    ("tensorrt", "INT4 multiplies floats"): (four_bits(40, zero="z8"), "Conv3"),
    ("tensorrt", "clip"): (clip("z8", 19), "Clip1"),
    ("tensorrt", "cast"): (cast(21), "Cast0"),
    ("tensorrt", "sampling word"): (sampled(20, mode="linear"), "GridSample0"),
    ("tensorrt", "sampling chain"): (sampled(19, mode="bilinear"), "GridSample0"),
    ("tensorrt", "narrow products"): (
        product("MatMul", np.ones((40, 8), np.int8), axis=1, zero="z8", opset=19, scales=8),
        "MatMul3",
    ),
    ("tensorrt", "scatter"): (
        simple("ScatterND", ["x", "i", "v"], opset=19, reduction="add",
               constants={"i": np.zeros((1, 4), np.int64), "v": np.ones(1, F)}),
        "ScatterND0",
    ),
    ("tensorrt", "sums"): (
        simple("ScatterElements", ["x", "i", "v"], opset=19, reduction="add", axis=0,
               constants={"i": np.zeros((2, 1, 1, 1), np.int64), "v": np.ones((2, 1, 1, 1), F)}),
        "ScatterElements0",
    ),
    ("tensorrt", "axes of sums"): (
        graph(("Cast", ["x"], {"to": 7}), ("ReduceSum", ["x", "Cast0"], {}), opset=19), "ReduceSum1",
    ),
    ("qnn", "opset"): (simple("Relu", ["x"], opset=20), "opset 20"),
    ("qnn", "fixed shapes"): (graph(("Relu", ["x"], {}), opset=21, shape=("batch", 3)), "Relu0"),
    ("qnn", "operators"): (simple("Erf", ["x"], opset=21), "Erf Erf0"),
    ("qnn", "integer types"): (graph(*quantized("z8"), opset=21, constants=STEP), "QuantizeLinear0"),
    ("qnn", "symmetric weights"): (
        graph(("DequantizeLinear", ["w", "s", "z1"], {}), ("Add", ["x", "DequantizeLinear0"], {}), opset=21,
              constants={**STEP, "w": np.ones(4, np.uint8)}),
        "DequantizeLinear0",
    ),
    ("qnn", "scales of inputs"): (input_by_channel(ZERO, 21), "QuantizeLinear0"),
    ("qnn", "axis"): (
        product("Conv", np.ones((40, 40, 1, 1), np.int8), axis=1, zero="z", opset=21, scales=40),
        "DequantizeLinear2",
    ),
    ("qnn", "INT4 is static"): (
        graph(("QuantizeLinear", ["x", "s", "z4"], {}), opset=21, constants={"s": F(1), "z4": np.zeros((), SMALL)}),
        "QuantizeLinear0",
    ),
    ("qnn", "INT4 is wide and pointwise"): (four_bits(32), "Conv3"),
    ("qnn", "bias steps"): (with_bias(0.02), "DequantizeLinear3"),
    ("qnn", "clip"): (clip("z", 21), "Clip1"),
    ("qnn", "cast"): (cast(21), "Cast0"),
    ("qnn", "sampling"): (sampled(21, mode="cubic"), "GridSample0"),
    ("qnn", "indices"): (simple("Gather", ["x", "i"], opset=21, constants={"i": np.array(-1)}), "Gather0"),
    ("qnn", "axes"): (simple("Unsqueeze", ["x", "i"], opset=21, constants={"i": np.array([0, 1])}), "Unsqueeze0"),
}  # fmt: skip


@pytest.mark.parametrize(("target", "name"), BROKEN)
def test_who_breaks_a_rule_is_named_with_it(target: str, name: str) -> None:
    model, node = BROKEN[target, name]
    found = [breach for breach in breaches(model, rules=DEVICE_RULES[target]) if breach.rule.name == name]
    assert found and found[0].node == node
    assert str(found[0]).startswith(f"{node} breaks the rule {name!r}: ")


def test_every_rule_is_broken_by_some_graph_and_has_a_dated_source() -> None:
    rules = {(target, rule.name): rule for target, rows in DEVICE_RULES.items() for rule in rows}
    assert set(rules) == set(BROKEN) and len(rules) == sum(len(rows) for rows in DEVICE_RULES.values())
    assert all(re.search(r"20\d\d-\d\d$", rule.source) for rule in rules.values())


@pytest.mark.parametrize(
    ("target", "model"),
    [
        ("tensorrt", product("MatMul", np.ones((40, 16), np.int8), axis=1, zero="z8", opset=19, scales=16)),
        ("tensorrt", product("Conv", np.ones((8, 40, 3, 3), np.int8), axis=0, zero="z8", opset=19, scales=8)),
        ("qnn", four_bits(33)),
        ("qnn", with_bias(0.01)),
        ("qnn", product("MatMul", np.ones((40, 33), SMALL), axis=1, zero="z", opset=21, scales=33)),
    ],
)
def test_what_keeps_all_rules_breaks_none(target: str, model: Any) -> None:
    assert [str(breach) for breach in breaches(model, rules=DEVICE_RULES[target])] == []


@pytest.mark.parametrize("damage", [{"kernel": 3}, {"strides": [2, 2]}])
def test_four_bits_need_a_pointwise_convolution_without_skips(damage: dict[str, Any]) -> None:
    (breach,) = breaches(four_bits(40, **damage), rules=DEVICE_RULES["qnn"])
    assert (breach.rule.name, breach.node) == ("INT4 is wide and pointwise", "Conv3")
