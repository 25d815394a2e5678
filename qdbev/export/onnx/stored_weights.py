"""Weights as integers: what is done to them before a layer reads them is done once, and they are written small.

A linear layer reads its weight transposed, an attention reads slices of one: integers and scales are moved likewise,
so that every layer has its own, in the order it multiplies. Widths up to four bits are written as INT4, wider ones as
INT8, and full bytes as UINT8 around 128 where the runtime adds two products in 16 bits (ONNX Runtime on x86 without
VNNI): two of 255 times 127 do not fit there, and its kernels for unsigned weights add in 32 bits on every processor.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from qdbev.export.onnx.graph import Array, Graph, attributes_of, of_kind
from qdbev.export.onnx.packages import onnx_package

if TYPE_CHECKING:
    import onnx

PACKED_BITS, ADDABLE_BITS = 4, 7
"""Widths up to which integers are written as INT4, and up to which 16 bits hold two products with bytes."""
ZERO_OF_BYTES = 128
READ, VALUES = "/int8", "/values"
"""Ends of the names of a weight as integers that are multiplied, and as the numbers that these stand for."""


@dataclass(frozen=True)
class Stored:
    """A weight as integers.

    Attributes:
        name: Of the parameter, with what was cut out of it.
        integers: int8.
        scale: float32, () or one for each place of the axis.
        axis: Of the scale; None for one scale.
        bits: Width of the integers.
        finer: What integers are multiplied by where they are read, and the scale divided: a power of two.
    """

    name: str
    integers: Array
    scale: Array
    axis: int | None
    bits: int
    finer: int = 1

    @property
    def spread_scale(self) -> Array:
        """The scale in the shape in which it multiplies the integers; the same where there is one."""
        if self.axis is None:
            return self.scale
        return self.scale.reshape([-1 if axis == self.axis else 1 for axis in range(self.integers.ndim)])

    def transposed(self, order: list[int]) -> Stored:
        """The same with its axes in another order."""
        axis = None if self.axis is None else order.index(self.axis)
        return replace(self, integers=self.integers.transpose(order), axis=axis)

    def as_matrix(self) -> Stored:
        """Of a convolution, as rows of channels are multiplied by it: places of the filter and input channels first."""
        rows = self.integers.transpose(2, 3, 1, 0).reshape(-1, len(self.integers))
        return replace(self, integers=rows, axis=None if self.axis is None else 1)

    def sliced(self, *, axis: int, start: int, end: int) -> Stored:
        """A range of an axis."""
        cut = np.arange(self.integers.shape[axis])[start:end]
        scale = self.scale.take(cut, 0) if axis == self.axis else self.scale
        name = f"{self.name}.{cut[0]}:{cut[-1] + 1}"
        return replace(self, name=name, integers=self.integers.take(cut, axis), scale=scale)


def stored_weights(graph: Graph) -> dict[str, Stored]:
    """Name of a tensor -> the weight that it is; nodes that only moved it are gone from the graph."""
    stored = {}
    for node in of_kind(graph, "Stored", domain="qdbev"):
        attributes, (integers, scale) = attributes_of(node), (graph.constants[name] for name in node.input)
        axis = None if attributes["axis"] < 0 else attributes["axis"]
        stored[node.output[0]] = Stored(attributes["name"], integers, scale, axis, attributes["bits"])
    for node in graph.nodes:
        if node.op_type in _MOVES and node.input[0] in stored:
            stored[node.output[0]] = _MOVES[node.op_type](stored[node.input[0]], node, graph)
    graph.nodes = [node for node in graph.nodes if node.output[0] not in stored]
    _multiply_plainly(graph, stored)
    return stored


def write_integers(
    graph: Graph, stored: dict[str, Stored], *, unsigned_bytes: bool = False, in_float: Container[str] = ()
) -> None:
    """Write each weight that is read as small integers, widened to int8 and given its scale where it is read.

    INT4 behind a Cast is what ONNX Runtime turns into int8 once, when it loads; read as INT4 it would be turned into
    float, or multiplied by kernels that quantize their inputs anew.

    Args:
        graph: Gets the weights.
        stored: Name of the tensor that layers read -> the weight.
        unsigned_bytes: Write full bytes around 128.
        in_float: Tensors that floats are multiplied by: written so that the runtime makes floats of them once.
    """
    readers, before = graph.readers(), []
    written: dict[str, str] = {}
    for tensor, weight in stored.items():
        if tensor in readers and written.setdefault(weight.name, tensor) == tensor:
            if tensor in in_float:
                before += _floats_of(weight, graph)
                continue
            full = unsigned_bytes and weight.bits > ADDABLE_BITS and weight.finer == 1
            before += _bytes_of(weight, graph) if full else _nodes_of(weight, graph)
    graph.rename({tensor: f"{weight.name}{VALUES}" for tensor, weight in stored.items()})
    graph.nodes[:0] = before


def _nodes_of(weight: Stored, graph: Graph) -> list[onnx.NodeProto]:
    types, nodes, name = onnx_package().TensorProto, [], weight.name
    source = graph.constant(name, _small(weight))
    if weight.finer > 1:
        factor = graph.constant(f"times.{weight.finer}", np.asarray(weight.finer, np.int32))
        nodes.append(graph.node("Cast", [source], [f"{name}/int32"], to=types.INT32))
        nodes.append(graph.node("Mul", [f"{name}/int32", factor], [f"{name}/finer"]))
        source = f"{name}/finer"
    if weight.finer > 1 or weight.bits <= PACKED_BITS:
        nodes.append(graph.node("Cast", [source], [f"{name}{READ}"], to=types.INT8))
        source = f"{name}{READ}"
    scale = graph.constant(f"{name}_scale", weight.scale / np.float32(weight.finer))
    return [*nodes, graph.node("DequantizeLinear", [source, scale], [f"{name}{VALUES}"], **_along(weight))]


def _floats_of(weight: Stored, graph: Graph) -> list[onnx.NodeProto]:
    """Without a DequantizeLinear, behind which a runtime would keep integers and make floats of them in each frame."""
    names = [graph.constant(weight.name, _small(weight)), graph.constant(f"{weight.name}_scale", weight.spread_scale)]
    floats = f"{weight.name}/float"
    cast = graph.node("Cast", names[:1], [floats], to=onnx_package().TensorProto.FLOAT)
    return [cast, graph.node("Mul", [floats, names[1]], [f"{weight.name}{VALUES}"])]


def _bytes_of(weight: Stored, graph: Graph) -> list[onnx.NodeProto]:
    integers = (weight.integers.astype(np.int16) + ZERO_OF_BYTES).astype(np.uint8)
    zero = np.full(weight.scale.shape, ZERO_OF_BYTES, np.uint8)
    constants = {"": integers, "_scale": weight.scale, "_zero": zero}
    names = [graph.constant(f"{weight.name}{ending}", value) for ending, value in constants.items()]
    return [graph.node("DequantizeLinear", names, [f"{weight.name}{VALUES}"], **_along(weight))]


def _along(weight: Stored) -> dict[str, int]:
    return {} if weight.axis is None else {"axis": weight.axis}


def _small(weight: Stored) -> Array:
    import ml_dtypes

    integers = np.ascontiguousarray(weight.integers)
    return integers.astype(ml_dtypes.int4) if weight.bits <= PACKED_BITS else integers


def _multiply_plainly(graph: Graph, stored: dict[str, Stored]) -> None:
    """Write ``Gemm`` of a weight as a product and a sum, as linear layers on more axes are: the bias stays in float."""
    replacements = {}
    for node in of_kind(graph, "Gemm"):
        if node.input[1] in stored:
            x, weight, *bias = node.input
            turned = attributes_of(node).get("transB", 0)
            tensor = f"{node.name}/weight"
            stored[tensor] = stored[weight].transposed([1, 0]) if turned else stored[weight]
            product = f"{node.name}/product" if bias else node.output[0]
            nodes = [graph.node("MatMul", [x, tensor], [product])]  # alpha and beta are 1 in what torch writes
            replacements[id(node)] = [*nodes, graph.node("Add", [product, *bias], [node.output[0]])] if bias else nodes
    graph.replace(replacements)


def _transposed(weight: Stored, node: onnx.NodeProto, graph: Graph) -> Stored:
    return weight.transposed(list(attributes_of(node)["perm"]))


def _sliced(weight: Stored, node: onnx.NodeProto, graph: Graph) -> Stored:
    starts, ends, axes, *steps = (graph.constants[name].tolist() for name in node.input[1:])
    assert len(starts) == 1 and steps in ([], [[1]])
    return weight.sliced(axis=axes[0], start=starts[0], end=ends[0])


_MOVES: dict[str, Callable[[Stored, Any, Graph], Stored]] = {"Transpose": _transposed, "Slice": _sliced}
