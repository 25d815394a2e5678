"""Multiply-accumulates and bit operations counted from a graph of QONNX alone: shapes of tensors, widths of ``Quant``.

Nothing of the detector or of its plan is asked, so that the count is a second opinion on both. A product counts as a
layer where one side is a weight; products of two activations are none, as in Eq. 7 of QD-BEV. What is sampled from a
grid, as in deformable convolutions, counts at the width of that grid.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qdbev.export.onnx.graph import Graph
from qdbev.export.onnx.qonnx.definition import NAME
from qdbev.export.onnx.shapes import known_shapes

if TYPE_CHECKING:
    import onnx

FLOAT_BITS = 32
_MOVES = ("Reshape", "Transpose", "Slice", "Identity", "Unsqueeze", "Squeeze", "Flatten")
_SAMPLING = ("GridSample", "Mul")
_PRODUCTS = ("Conv", "ConvTranspose", "MatMul", "Gemm")


@dataclass(frozen=True)
class Operations:
    """What one product of the graph costs.

    Attributes:
        weight: Name of the constant that is multiplied by.
        macs: Multiply-accumulates.
        weight_bits: Width of the constant, 32 where no ``Quant`` reads it.
        input_bits: Width of what it is multiplied by.
    """

    weight: str
    macs: int
    weight_bits: int
    input_bits: int

    @property
    def bit_operations(self) -> int:
        """Each product of two numbers as the product of their widths (Eq. 7)."""
        return self.macs * self.weight_bits * self.input_bits


def counted(model: onnx.ModelProto) -> list[Operations]:
    """The products with weights of a graph, in the order that they run."""
    graph, shapes = Graph(model), known_shapes(model)
    producers = graph.producers()
    operations = []
    for node in graph.nodes:
        if node.op_type in _PRODUCTS:
            x, weight = node.input[:2]
            if _is_sampled(weight, producers):
                x, weight = weight, x
            constant, weight_bits = _origin(weight, producers, graph)
            if constant in graph.constants:
                macs = _macs(node, shapes)
                _, input_bits = _origin(x, producers, graph, past=(*_MOVES, *_SAMPLING))
                operations.append(Operations(constant, macs, weight_bits, input_bits))
    return operations


def by_layer(operations: Iterable[Operations], paths: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Path of each layer -> multiply-accumulates and bit operations of all its products.

    Args:
        operations: As counted.
        paths: Of layers; a weight is of the layer whose path it begins with.
    """
    known, sums = list(paths), dict[str, tuple[int, int]]()
    for product in operations:
        path = next((path for path in known if product.weight.startswith(f"{path}.")), product.weight)
        macs, bits = sums.get(path, (0, 0))
        sums[path] = (macs + product.macs, bits + product.bit_operations)
    return sums


def differing(found: Mapping[str, tuple[int, int]], expected: Mapping[str, tuple[int, int]]) -> Iterator[str]:
    """A sentence for each layer whose count is another one than expected."""
    for path, counts in expected.items():
        if found.get(path, (0, 0)) != counts:
            macs, bits = found.get(path, (0, 0))
            yield f"{path} takes {macs} MACs and {bits} bit operations by the graph, {counts[0]} and {counts[1]} by us"


def _origin(
    name: str, producers: Mapping[str, onnx.NodeProto], graph: Graph, *, past: tuple[str, ...] = _MOVES
) -> tuple[str, int]:
    """Where a tensor comes from, past nodes of some kinds, and the width that it has."""
    while (node := producers.get(name)) is not None:
        if node.op_type == NAME:
            return node.input[0], int(graph.constants[node.input[3]])
        if node.op_type not in past and not _adds_a_number(node, graph):
            break
        name = node.input[0]
    return name, FLOAT_BITS


def _adds_a_number(node: onnx.NodeProto, graph: Graph) -> bool:
    """Whether it adds the offset of a grid: one number, behind its ``Quant``."""
    added = graph.constants.get(node.input[1]) if node.op_type == "Add" else None
    return added is not None and added.size == 1


def _is_sampled(name: str, producers: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether it was read off a map: in a deformable convolution, whose weight stands on the left."""
    while (node := producers.get(name)) is not None and node.op_type in (*_MOVES, *_SAMPLING):
        if node.op_type == "GridSample":
            return True
        name = node.input[0]
    return False


def _macs(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Each number of the output sums up so many products; in a transposed convolution each of the input takes part."""
    x, weight, out = (shapes[name] for name in (*node.input[:2], node.output[0]))
    if node.op_type == "ConvTranspose":
        return math.prod(x) * math.prod(weight[1:])
    return math.prod(out) * (math.prod(weight[1:]) if node.op_type == "Conv" else x[-1])
