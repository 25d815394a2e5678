"""Inputs of layers that follow from constants alone, such as positions of object queries, for OpenVINO.

OpenVINO 2026.4.1 folds products of them when it loads a graph: to other numbers, or not to the end, and then it fails.
A zero made of an input is added to them, so that they are multiplied at each run.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from qdbev.export.onnx.graph import Graph, attributes_of

if TYPE_CHECKING:
    import onnx

_ZERO = "zero of an input"


def let_constants_depend(graph: Graph, *, weights: Iterable[str]) -> None:
    """Let every grid of constants depend on an input, in place.

    Args:
        graph: Whose weights are out of it already.
        weights: Names of the tensors that these are.
    """
    known, replacements = {*graph.constants, *weights}, {}
    for node in graph.nodes:
        if not known.issuperset(name for name in node.input if name):
            continue
        if (node.op_type, node.domain) == ("Grid", "qdbev"):
            replacements[id(node)] = _depending(node, graph)
        else:
            known.update(node.output)
    graph.replace(replacements)
    if replacements:
        graph.nodes[:0] = _zero(graph)


def _depending(node: onnx.NodeProto, graph: Graph) -> list[onnx.NodeProto]:
    sum_ = graph.node("Add", [node.input[0], _ZERO], [f"{attributes_of(node)['name']}/input"])
    node.input[0] = sum_.output[0]
    return [sum_, node]


def _zero(graph: Graph) -> list[onnx.NodeProto]:
    number = graph.constant("number.0", np.asarray(0, np.float32))
    largest = graph.node("ReduceMax", [graph.smallest_input], [f"largest of {graph.smallest_input}"], keepdims=0)
    return [largest, graph.node("Mul", [largest.output[0], number], [_ZERO])]
