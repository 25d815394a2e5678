"""``Gelu`` written out, for graphs before opset 20, which brought it.

It is ``x / 2 * (1 + erf(x / sqrt 2))``, or where that is asked ``x / 2 * (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from qdbev.export.onnx.graph import Graph, attributes_of, of_kind

if TYPE_CHECKING:
    import onnx

FIRST_OPSET = 20


def write_out_gelu(graph: Graph) -> None:
    """Replace every ``Gelu``, in place."""
    graph.replace({id(node): _written_out(node, graph) for node in list(of_kind(graph, "Gelu"))})


def _written_out(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto]:
    x, out = node.input[0], node.output[0]
    if attributes_of(node).get("approximate", "none") == "tanh":
        cube = [graph.node("Mul", [x, x], [f"{out}/square"]), graph.node("Mul", [f"{out}/square", x], [f"{out}/cube"])]
        cube.append(graph.node("Mul", [f"{out}/cube", _number(graph, 0.044715)], [f"{out}/small"]))
        cube.append(graph.node("Add", [x, f"{out}/small"], [f"{out}/sum"]))
        inside, factor, bends = f"{out}/sum", math.sqrt(2 / math.pi), "Tanh"
    else:
        cube, inside, factor, bends = [], x, math.sqrt(0.5), "Erf"
    return [
        *cube,
        graph.node("Mul", [inside, _number(graph, factor)], [f"{out}/scaled"]),
        graph.node(bends, [f"{out}/scaled"], [f"{out}/bent"]),
        graph.node("Add", [f"{out}/bent", _number(graph, 1.0)], [f"{out}/raised"]),
        graph.node("Mul", [x, f"{out}/raised"], [f"{out}/twice"]),
        graph.node("Mul", [f"{out}/twice", _number(graph, 0.5)], [out]),
    ]


def _number(graph: Graph, value: float) -> str:
    return graph.constant(f"number.{value:.6g}", np.asarray(value, np.float32))
