"""``Gelu`` written out for graphs that are older than the operator: onnx's own definition says what it is."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from qdbev.export.onnx.device.gelu import FIRST_OPSET, write_out_gelu
from qdbev.export.onnx.graph import Graph


def model(opset: int, *, approximate: str) -> onnx.ModelProto:
    node = helper.make_node("Gelu", ["x"], ["y"], approximate=approximate)
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [9]) for name in ("x", "y")]
    graph = helper.make_graph([node], "one", ports[:1], ports[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_it_computes_the_same_before_the_operator_came(approximate: str) -> None:
    x = np.linspace(-4, 4, 9, dtype=np.float32)
    (expected,) = ReferenceEvaluator(model(FIRST_OPSET, approximate=approximate)).run(None, {"x": x})
    graph = Graph(model(FIRST_OPSET - 1, approximate=approximate))
    write_out_gelu(graph)
    older = graph.finish()
    onnx.checker.check_model(older, full_check=True)
    assert {"none": "Erf", "tanh": "Tanh"}[approximate] in {node.op_type for node in older.graph.node}
    np.testing.assert_allclose(ReferenceEvaluator(older).run(None, {"x": x})[0], expected, atol=1e-6)
