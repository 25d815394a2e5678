"""Convolutions for ONNX Runtime: products of rows where a sum follows, integers that are pooled; against torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from qdbev.export.onnx import biases
from qdbev.export.onnx.execution import OrtSession
from qdbev.export.onnx.gate.node_table import layer_fates
from qdbev.export.onnx.lowering import Lowered, runtime_graph

STEP, HIGH = 0.25, 63
SCALES = np.array([0.5, 0.25, 0.125, 1.0] * 4, np.float32)


def weight(name: str, *shape: int) -> list[onnx.TensorProto]:
    integers = np.random.default_rng(len(name)).integers(-8, 8, shape).astype(np.int8)
    return [numpy_helper.from_array(integers, f"{name}.q"), numpy_helper.from_array(SCALES[: shape[0]], f"{name}.s")]


def stored(name: str) -> onnx.NodeProto:
    inputs, output = [f"{name}.q", f"{name}.s"], [f"{name}.w"]
    return helper.make_node("Stored", inputs, output, domain="qdbev", name=name, bits=4, axis=0)


def grid(x: str, output: str, step: str = "step") -> onnx.NodeProto:
    limits = {"low": 0, "high": HIGH}
    return helper.make_node("Grid", [x, step, "none"], [output], domain="qdbev", name=f"{output}.grid", **limits)


def named(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Attributes that are called ``name``, beside the names of nodes."""
    for node in nodes:
        if node.domain:
            node.attribute.append(helper.make_attribute("name", node.name))
    return nodes


def graph(nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto], *, shape: tuple[int, ...]) -> onnx.ModelProto:
    steps = {"step": STEP, "half": STEP / 2, "none": 0.0}
    constants += [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in steps.items()]
    ports = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, of)] for name, of in (("x", shape), ("y", None))]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("qdbev", 1)]
    return helper.make_model(helper.make_graph(named(nodes), "g", *ports, constants), opset_imports=opsets)


def values(model: onnx.ModelProto, name: str) -> Tensor:
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return torch.from_numpy(tensors[f"{name}.q"] * tensors[f"{name}.s"].reshape(-1, 1, 1, 1))


def on_grid(x: Tensor) -> Tensor:
    return (x / STEP).round().clamp(0, HIGH) * STEP


def operators(lowered: Lowered) -> dict[str, str]:
    fates = layer_fates(OrtSession(lowered.model).optimised, weights=lowered.weights)
    return {each.weight: each.operator for each in fates}


@pytest.mark.parametrize(
    ("channels", "kernel", "attributes", "operator"),
    [
        (5, (1, 1), {}, "MatMulIntegerToFloat"),
        (5, (1, 1), {"strides": [2, 2]}, "MatMulIntegerToFloat"),
        (16, (3, 3), {"pads": [1, 1, 1, 1]}, "MatMulIntegerToFloat"),
        (16, (3, 2), {"pads": [2, 0, 1, 1], "strides": [2, 1], "dilations": [2, 1]}, "MatMulIntegerToFloat"),
        (3, (3, 3), {"pads": [1, 1, 1, 1]}, "Conv"),
        (16, (3, 3), {"group": 2}, "Conv"),
    ],
)
def test_a_convolution_before_a_sum(
    channels: int, kernel: tuple[int, int], attributes: dict[str, Any], operator: str
) -> None:
    outputs, groups = 16, attributes.get("group", 1)
    bias = np.linspace(-1, 1, outputs, dtype=np.float32)
    nodes = [
        stored("layer"),
        grid("x", "on"),
        helper.make_node("Conv", ["on", "layer.w", "bias"], ["conv"], name="conv", **attributes),
        helper.make_node("Add", ["conv", "conv"], ["y"]),
    ]
    constants = [*weight("layer", outputs, channels // groups, *kernel), numpy_helper.from_array(bias, "bias")]
    model = graph(nodes, constants, shape=(2, channels, 7, 8))
    filters = values(model, "layer")
    lowered = runtime_graph(model)
    x = torch.randn(2, channels, 7, 8, generator=torch.Generator().manual_seed(0)) * 6
    top, left, bottom, right = attributes.get("pads", [0] * 4)
    padded = torch.nn.functional.pad(on_grid(x), (left, right, top, bottom))
    places = {"stride": attributes.get("strides", 1), "dilation": attributes.get("dilations", 1), "groups": groups}
    expected = 2 * torch.conv2d(padded, filters, torch.from_numpy(bias), **places)
    found = OrtSession(lowered.model).run({"x": x})["y"]
    assert found.shape == expected.shape and (found - expected).abs().max() < 1e-4
    assert operators(lowered) == {"layer": operator}


@pytest.mark.parametrize(("other_step", "pooled"), [("step", True), ("half", False)])
def test_a_pool_of_one_grid_pools_integers(other_step: str, pooled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(biases, "SMALL", 0)
    nodes = [
        *(stored(name) for name in ("stem", "first", "second")),
        grid("x", "on"),
        helper.make_node("Conv", ["on", "stem.w", "bias"], ["conv"], name="conv", strides=[2, 2]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("MaxPool", ["relu"], ["pool"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        grid("pool", "a"),
        grid("pool", "b", other_step),
        helper.make_node("Conv", ["a", "first.w"], ["one"], name="one"),
        helper.make_node("Conv", ["b", "second.w"], ["two"], name="two"),
        helper.make_node("Add", ["one", "two"], ["y"]),
    ]
    bias = np.linspace(-4, 4, 16, dtype=np.float32)
    constants = [*weight("stem", 16, 3, 3, 3), *weight("first", 4, 16, 1, 1), *weight("second", 4, 16, 1, 1)]
    model = graph(nodes, [*constants, numpy_helper.from_array(bias, "bias")], shape=(1, 3, 17, 19))
    stem, first, second = (values(model, name) for name in ("stem", "first", "second"))
    lowered = runtime_graph(model)
    assert [node.op_type for node in lowered.model.graph.node].count("MaxPool") == 1
    x = torch.randn(1, 3, 17, 19, generator=torch.Generator().manual_seed(0)) * 4
    session = OrtSession(lowered.model, taps=lowered.taps)
    found = session.run({"x": x})
    used = lowered.biases.get("bias", bias)
    pool = torch.max_pool2d(torch.conv2d(on_grid(x), stem, torch.from_numpy(used), 2).relu(), 3, 2, 1)
    steps = (pool / STEP).round().clamp(0, HIGH)
    assert torch.equal(found["a.grid/steps"].float(), steps)
    b = steps * STEP if pooled else (pool / STEP * 2).round().clamp(0, HIGH) * STEP / 2
    expected = torch.conv2d(steps * STEP, first) + torch.conv2d(b, second)
    assert (found["y"] - expected).abs().max() < 1e-4
    # what ends on a grid is an integer, and what is not is pooled in float
    assert operators(lowered)["stem"] == ("QLinearConv" if pooled else "Conv")


def test_two_convolutions_that_are_added_have_one_bias() -> None:
    nodes = [
        *(stored(name) for name in ("first", "other")),
        grid("x", "on"),
        helper.make_node("Conv", ["on", "first.w", "b"], ["one"], name="one"),
        helper.make_node("Conv", ["on", "other.w", "c"], ["two"], name="two"),
        helper.make_node("Add", ["one", "two"], ["y"]),
    ]
    biases_of = {name: np.linspace(-3, end, 4, dtype=np.float32) for name, end in (("b", 1), ("c", 2))}
    constants = [*weight("first", 4, 5, 1, 1), *weight("other", 4, 5, 1, 1)]
    constants += [numpy_helper.from_array(value, name) for name, value in biases_of.items()]
    model = graph(nodes, constants, shape=(1, 5, 3, 4))
    filters = values(model, "first") + values(model, "other")
    lowered = runtime_graph(model)
    assert [node.op_type for node in lowered.model.graph.node].count("Sub") == 1
    x = torch.randn(1, 5, 3, 4, generator=torch.Generator().manual_seed(0)) * 6
    expected = torch.conv2d(on_grid(x), filters, torch.from_numpy(sum(biases_of.values())))
    assert (OrtSession(lowered.model).run({"x": x})["y"] - expected).abs().max() < 1e-4
