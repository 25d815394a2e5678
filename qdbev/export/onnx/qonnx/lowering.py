"""From the neutral graph to QONNX: every grid and every weight is a ``Quant`` of its own width, on floats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qdbev.export.onnx.activations import Grid, grid_of
from qdbev.export.onnx.graph import Graph, of_kind
from qdbev.export.onnx.lowering import Lowered
from qdbev.export.onnx.neutral import OPSET
from qdbev.export.onnx.packages import onnx_package
from qdbev.export.onnx.qonnx.definition import DOMAIN, NAME, ROUNDING, VERSION, quant_function
from qdbev.export.onnx.stored_weights import VALUES, Stored, stored_weights

if TYPE_CHECKING:
    import onnx

QUANT = "/quant"
"""End of the name of the node, and of its output, that puts the input of a layer onto its grid."""


@dataclass(frozen=True)
class Width:
    """Integers as ``Quant`` names them.

    >>> Width.of(-32, 31), Width.of(-31, 31), Width.of(0, 63)
    (Width(bits=6, signed=1, narrow=0), Width(bits=6, signed=1, narrow=1), Width(bits=6, signed=0, narrow=0))
    """

    bits: int
    signed: int
    narrow: int

    @classmethod
    def of(cls, low: int, high: int) -> Width:
        """The width of all integers between two limits.

        Raises:
            ValueError: No width has these limits.
        """
        signed, bits = int(low < 0), (high + 1).bit_length() - int(low >= 0)
        narrow = int(low == -high and low < 0)
        if high != 2 ** (bits - signed) - 1 or low != (narrow - 2 ** (bits - 1)) * signed:
            raise ValueError(f"integers {low} to {high} are those of no width that QONNX names")
        return cls(bits, signed, narrow)


def quant_graph(neutral: onnx.ModelProto) -> Lowered:
    """Return the graph of QONNX; the neutral one, its constants folded, is changed."""
    graph = Graph(neutral)
    stored = stored_weights(graph)
    grids = _write_grids(graph)
    graph.drop_unread()
    read = graph.readers()
    _write_weights(graph, {tensor: weight for tensor, weight in stored.items() if tensor in read})
    model, helper = graph.finish(), onnx_package().helper
    del model.opset_import[:]
    model.opset_import.extend([helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)])
    model.functions.append(quant_function(OPSET))
    return Lowered(
        model,
        biases={},
        weights={weight.name: weight for tensor, weight in stored.items() if tensor in read},
        grids={grid.name: grid for grid in grids},
    )


def _write_grids(graph: Graph) -> list[Grid]:
    replacements, grids = {}, []
    for node in of_kind(graph, "Grid", domain="qdbev"):
        grid = grid_of(node, graph)
        replacements[id(node)] = _grid_nodes(grid, graph, source=node.input[0], output=node.output[0])
        grids.append(grid)
    graph.replace(replacements)
    return grids


def _grid_nodes(grid: Grid, graph: Graph, *, source: str, output: str) -> list[onnx.NodeProto]:
    """``Quant``; around it what an offset moves, which is no whole number of steps and so no zero point."""
    before, after, result = [], [], f"{grid.name}{QUANT}"
    if grid.offset:
        beta = graph.constant(f"{grid.name}.offset", np.asarray(grid.offset, np.float32))
        before = [graph.node("Sub", [source, beta], [f"{grid.name}/shifted"])]
        after, source = [graph.node("Add", [result, beta], [output])], f"{grid.name}/shifted"
    else:
        graph.rename({output: result})
    width = Width.of(grid.low, grid.high)
    scale = graph.constant(f"{grid.name}.scale", grid.scale)
    return [*before, _quant(graph, [source, scale], result, width=width), *after]


def _write_weights(graph: Graph, stored: dict[str, Stored]) -> None:
    nodes = {}
    for weight in stored.values():
        name = graph.constant(weight.name, weight.integers.astype(np.float32) * weight.spread_scale)
        scale = graph.constant(f"{weight.name}_scale", weight.spread_scale)
        width = Width(weight.bits, signed=1, narrow=0)
        nodes[weight.name] = _quant(graph, [name, scale], f"{weight.name}{VALUES}", width=width)
    graph.rename({tensor: f"{weight.name}{VALUES}" for tensor, weight in stored.items()})
    graph.nodes[:0] = nodes.values()


def _quant(graph: Graph, inputs: list[str], output: str, *, width: Width) -> onnx.NodeProto:
    zero = graph.constant("zero_point", np.zeros((), np.float32))
    bits = graph.constant(f"bits.{width.bits}", np.asarray(width.bits, np.float32))
    attributes = {"signed": width.signed, "narrow": width.narrow, "rounding_mode": ROUNDING}
    return graph.node(NAME, [*inputs, zero, bits], [output], domain=DOMAIN, **attributes)
