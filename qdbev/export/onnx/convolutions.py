"""Convolutions as ONNX Runtime multiplies them in integers and gives floats: products of rows of channels.

Its convolution of integers gives integers and rounds the bias, so one whose output goes into a sum would multiply
floats. A product of integers may give floats, and its bias is what it is. So channels go last, the places that a filter
looks at lie side by side in a row, and the row is multiplied; the sums are those of the convolution.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qdbev.export.onnx.activations import STEPS, Grid
from qdbev.export.onnx.graph import Graph, attributes_of, of_kind
from qdbev.export.onnx.stored_weights import Stored

if TYPE_CHECKING:
    import onnx

_SHORTEST = 16
"""Channels that are worth to be copied for each place of a filter."""
_TURNED = "/turned"
"""End of the name of the node that puts channels second again."""
_LAST, _SECOND = [0, 2, 3, 1], [0, 3, 1, 2]


def multiply_rows(graph: Graph, *, grids: dict[str, Grid], stored: dict[str, Stored]) -> set[str]:
    """Write the convolutions of integers that ``write_biases`` left as products; both tables get their tensors.

    Args:
        graph: Changed in place.
        grids: By the tensor that they give.
        stored: Name of a tensor -> the weight that it is.

    Returns:
        Tensors of weights that are multiplied in float all the same.
    """
    readers, replacements, in_float = graph.readers(), {}, set()
    for node in of_kind(graph, "Conv"):
        grid, weight = grids.get(node.input[0]), stored.get(node.input[1])
        if weight is None or _ends_on_a_grid(node, graph, readers=readers):
            continue
        if grid is not None and can_be_rows(node, grid=grid, weight=weight):
            replacements[id(node)] = _product(node, graph, grid=grid, weight=weight, grids=grids, stored=stored)
        else:
            in_float.add(node.input[1])
    graph.replace(replacements)
    _join_biases(graph)
    graph.drop_unread()
    return in_float


def _join_biases(graph: Graph) -> None:
    """Let the first of two products that are added have the biases of both: one pass over memory less."""
    readers, producers = graph.readers(), graph.producers()
    for node in of_kind(graph, "Add"):
        turned = [producers[name] for name in node.input if name in producers]
        if [each.name.endswith(_TURNED) and len(readers[each.output[0]]) == 1 for each in turned] != [True, True]:
            continue
        first, second = (producers[each.input[0]] for each in turned)
        if first is not second and first.op_type == second.op_type == "Sub":
            name, other = first.input[1], second.input[1]
            joined = graph.constants[name] + graph.constants[other]
            first.input[1] = graph.constant(f"{name}.and.{other}", joined)
            turned[1].input[0] = second.input[0]


def _ends_on_a_grid(node: onnx.NodeProto, graph: Graph, *, readers: dict[str, list[onnx.NodeProto]]) -> bool:
    """Whether it is a convolution of integers as it is: a grid follows, and its bias is none or of integers."""
    follows = [reader.op_type for reader in readers[node.output[0]]]
    return follows == ["QuantizeLinear"] and (len(node.input) < 3 or node.input[2] not in graph.constants)


def can_be_rows(node: onnx.NodeProto, *, grid: Grid, weight: Stored) -> bool:
    """Whether a convolution can be such a product, and gains: a few channels take longer to copy than to multiply."""
    _, channels, *kernel = weight.integers.shape
    if grid.offset or attributes_of(node).get("group", 1) != 1:
        return False
    return kernel == [1, 1] or channels >= _SHORTEST


def _product(
    node: onnx.NodeProto,
    graph: Graph,
    *,
    grid: Grid,
    weight: Stored,
    grids: dict[str, Grid],
    stored: dict[str, Stored],
) -> list[onnx.NodeProto]:
    rows = _Rows(graph, node.name, attributes_of(node))
    values, matrix, product = f"{node.name}/values", f"{node.name}/matrix", f"{node.name}/product"
    integers = rows.of(f"{grid.name}{STEPS}", weight=weight, zero=grid.zero)
    scale = graph.constant(f"{grid.name}.scale", grid.scale)
    zero = graph.constant(f"zero.{grid.zero}", np.asarray(grid.zero, np.uint8))
    grids[values], stored[matrix] = grid, weight.as_matrix()
    nodes = [
        *rows.nodes,
        graph.node("DequantizeLinear", [integers, scale, zero], [values]),
        graph.node("MatMul", [values, matrix], [product]),
    ]
    if len(node.input) > 2:
        negated = graph.constant(f"{node.input[2]}.negated", -graph.constants[node.input[2]])
        nodes.append(graph.node("Sub", [product, negated], [f"{node.name}/biased"]))
    turned = graph.node("Transpose", [nodes[-1].output[0]], [node.output[0]], perm=_SECOND)
    turned.name = f"{node.name}{_TURNED}"
    return [*nodes, turned]


class _Rows:
    """The nodes that lay what a filter looks at side by side, in integers."""

    def __init__(self, graph: Graph, name: str, attributes: dict[str, Any]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._graph, self._name = graph, name
        self._strides = attributes.get("strides", [1, 1])
        self._dilations = attributes.get("dilations", [1, 1])
        self._pads = attributes.get("pads", [0, 0, 0, 0])

    def of(self, steps: str, *, weight: Stored, zero: int) -> str:
        """Name of the rows of a map of integers whose zero is ``zero``."""
        image = self._add("Transpose", [steps], perm=_LAST)
        if any(self._pads):
            top, left, bottom, right = self._pads
            amounts = self._numbers([0, top, left, 0, 0, bottom, right, 0])
            image = self._add("Pad", [image, amounts, self._graph.constant(f"zero.{zero}", np.asarray(zero, np.uint8))])
        height, width = weight.integers.shape[2:]
        seen = [self._seen(image, (row, column), (height, width)) for row in range(height) for column in range(width)]
        return self._add("Concat", seen, axis=3) if len(seen) > 1 else seen[0]

    def _seen(self, image: str, place: tuple[int, int], kernel: tuple[int, int]) -> str:
        """What one place of the filter looks at, everywhere."""
        starts = [at * step for at, step in zip(place, self._dilations, strict=True)]
        ends = [(at - side + 1) * step for at, side, step in zip(place, kernel, self._dilations, strict=True)]
        if not any(starts) and not any(ends) and self._strides == [1, 1]:
            return image
        limits = [end or 2**31 - 1 for end in ends]
        places = [self._numbers(values) for values in (starts, limits, [1, 2], self._strides)]
        return self._add("Slice", [image, *places])

    def _add(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        output = f"{self._name}/rows.{len(self.nodes)}"
        self.nodes.append(self._graph.node(kind, inputs, [output], **attributes))
        return output

    def _numbers(self, values: list[int]) -> str:
        return self._graph.constant(f"numbers.{'.'.join(map(str, values))}", np.asarray(values, np.int64))
