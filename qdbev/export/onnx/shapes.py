"""Constants where a graph computes with shapes: all of them are fixed, so what follows from them alone is known.

Torch's exporter writes a thousand nodes that only count axes; targets without an optimiser of their own would run them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qdbev.export.onnx.graph import Graph, attributes_of
from qdbev.export.onnx.packages import onnx_package

if TYPE_CHECKING:
    import onnx

_LARGEST = 1 << 20
"""Numbers in a constant that may be written down; what is larger is computed at each run."""


def fold_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with every node gone whose inputs are all known, and with ``Shape`` known too.

    Args:
        model: Of the standard operators alone, and our own quantizers; changed.
    """
    before = len(model.graph.node) + 1
    while len(model.graph.node) < before:  # what is folded lets more shapes be known
        before = len(model.graph.node)
        shapes = known_shapes(model)
        graph = Graph(model)
        remaining = []
        for node in graph.nodes:
            values = _folded(node, graph, shapes=shapes, opset=model.opset_import[0].version)
            if values is None:
                remaining.append(node)
            else:
                graph.constants.update(zip(node.output, values, strict=True))
        graph.nodes = remaining
        model = graph.finish()
    return model


def _folded(
    node: onnx.NodeProto, graph: Graph, *, shapes: dict[str, tuple[int, ...]], opset: int
) -> list[np.ndarray] | None:
    if node.domain or set(node.output).intersection(graph.outputs):
        return None
    if node.op_type == "Shape" and node.input[0] in shapes:
        attributes = attributes_of(node)
        return [np.asarray(shapes[node.input[0]][attributes.get("start", 0) : attributes.get("end")], np.int64)]
    names = [name for name in node.input if name]
    if not all(name in graph.constants for name in names):
        return None
    if sum(graph.constants[name].size for name in names) > _LARGEST:
        return None
    values = _evaluated(node, {name: graph.constants[name] for name in names}, opset=opset)
    return values if sum(value.size for value in values) <= _LARGEST else None


def _evaluated(node: onnx.NodeProto, values: dict[str, np.ndarray], *, opset: int) -> list[np.ndarray]:
    package = onnx_package()
    from onnx.reference import ReferenceEvaluator

    helper = package.helper
    typed = {name: helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in values.items()}
    given = [helper.make_tensor_value_info(name, kind, None) for name, kind in typed.items()]
    results = [helper.make_value_info(name, package.TypeProto()) for name in node.output]
    graph = helper.make_graph([node], "one", given, results)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    return [np.asarray(value) for value in ReferenceEvaluator(model).run(None, values)]


def known_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor whose shape follows from the inputs', quantizers taken for what they pass on."""
    package = onnx_package()
    plain = package.ModelProto()
    plain.CopyFrom(model)
    for node in plain.graph.node:
        if node.domain:
            cast = node.op_type == "Stored"
            node.op_type, node.domain = ("Cast" if cast else "Identity"), ""
            del node.input[1:], node.attribute[:]
            if cast:
                node.attribute.append(package.helper.make_attribute("to", package.TensorProto.FLOAT))
    inferred = package.shape_inference.infer_shapes(plain, data_prop=True).graph
    shapes = {}
    for value in (*inferred.value_info, *inferred.input, *inferred.output):
        sides = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(side.HasField("dim_value") for side in sides):
            shapes[value.name] = tuple(side.dim_value for side in sides)
    return shapes
