"""From the neutral graph of a detector at legal bits to that of a device: Q and DQ, and nothing between the two.

The detector has the device's bits before it is traced (``qdbev.export.targets.legal``), so that a byte needs no Clip.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qdbev.export.onnx.activations import STEPS, Grid, write_grids
from qdbev.export.onnx.device.gelu import FIRST_OPSET, write_out_gelu
from qdbev.export.onnx.device.sampling import gather_samples
from qdbev.export.onnx.device.sums import add_elements
from qdbev.export.onnx.graph import Array, Graph, attributes_of, of_kind
from qdbev.export.onnx.lowering import Lowered
from qdbev.export.onnx.packages import onnx_package
from qdbev.export.onnx.shapes import known_shapes
from qdbev.export.onnx.stored_weights import PACKED_BITS, VALUES, Stored, stored_weights

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Form:
    """How a device wants its graph.

    Attributes:
        opset: Version of the standard operators.
        ir_version: Of the file.
        signed: Inputs are INT8 around zero; otherwise UINT8 with a zero of their own.
        four_bits: Whether a weight that a node multiplies may be INT4; None: none may.
        integer_biases: Biases between grids are int32, in steps of input times weight.
        gathers: Sampling is written as gathered rows.
        adds_elements: Rows are added up by ``ScatterElements``, which a plugin runs; no operator adds whole rows.
    """

    opset: int
    ir_version: int
    signed: bool
    four_bits: Callable[[Any, Stored], bool] | None
    integer_biases: bool
    gathers: bool
    adds_elements: bool


def _wide_and_pointwise(node: Any, weight: Stored) -> bool:
    """1x1 convolutions with stride 1 and products, of more than 32 outputs."""
    if node.op_type == "MatMul":
        return weight.integers.shape[-1] > 32
    strides = attributes_of(node).get("strides", [1])
    outputs, _, *kernel = weight.integers.shape
    return all(side == 1 for side in (*kernel, *strides)) and outputs > 32


FORMS = {
    "tensorrt": Form(19, 9, signed=True, four_bits=None, integer_biases=False, gathers=True, adds_elements=True),
    "qnn": Form(
        21, 10, signed=False, four_bits=_wide_and_pointwise, integer_biases=True, gathers=False, adds_elements=False
    ),
}
"""Target -> its form: INT4 initialisers need opset 21, and sampling means something else to TensorRT from 20 on."""


def device_graph(neutral: onnx.ModelProto, *, target: str) -> Lowered:
    """Return the graph of a device; the neutral one, its constants folded, is changed."""
    form, shapes, graph = FORMS[target], known_shapes(neutral), Graph(neutral)
    stored = stored_weights(graph)
    grids = write_grids(graph, bare=True, signed=form.signed)
    biases = _write_biases(graph, grids=grids, stored=stored) if form.integer_biases else {}
    _count_from_the_front(graph, shapes=shapes)
    if form.gathers:
        gather_samples(graph, shapes=shapes)
    if form.adds_elements:
        add_elements(graph, shapes=shapes)
    if form.opset < FIRST_OPSET:
        write_out_gelu(graph)
    read = graph.readers()
    _write_weights(graph, {tensor: weight for tensor, weight in stored.items() if tensor in read}, form=form)
    model = graph.finish()
    del model.opset_import[:]
    model.opset_import.append(onnx_package().helper.make_opsetid("", form.opset))
    model.ir_version = form.ir_version
    weights = {weight.name: weight for tensor, weight in stored.items() if tensor in read}
    return Lowered(model, biases=biases, weights=weights, grids={grid.name: grid for grid in grids.values()})


def integer_biases(model: onnx.ModelProto) -> dict[str, Array]:
    """Name of each bias that a graph has as integers -> the values that these stand for."""
    to_array = onnx_package().numpy_helper.to_array
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    names = [name.removesuffix(STEPS) for name in constants if name.endswith(STEPS)]
    return {
        name: to_array(constants[f"{name}{STEPS}"]).astype(np.float32) * to_array(constants[f"{name}_scale"])
        for name in names
    }


def _write_biases(graph: Graph, *, grids: dict[str, Grid], stored: dict[str, Stored]) -> dict[str, Array]:
    """Biases of convolutions from grid to grid, int32 in steps of input times weight."""
    readers, before, moved = graph.readers(), [], dict[str, Array]()
    for node in of_kind(graph, "Conv"):
        x, weight, *bias = node.input
        follows = {reader.op_type for reader in readers.get(node.output[0], [])}
        if bias and x in grids and weight in stored and follows == {"QuantizeLinear"}:
            value = graph.constants[bias[0]]
            scale = np.broadcast_to(grids[x].scale * stored[weight].scale, value.shape).astype(np.float32)
            steps = np.rint(value / scale).astype(np.int32)
            names = [graph.constant(f"{bias[0]}{STEPS}", steps), graph.constant(f"{bias[0]}_scale", scale.copy())]
            before.append(graph.node("DequantizeLinear", names, [f"{bias[0]}{VALUES}"], axis=0))
            node.input[2] = f"{bias[0]}{VALUES}"
            moved[bias[0]] = steps.astype(np.float32) * scale
    graph.nodes[:0] = before
    return moved


def _count_from_the_front(graph: Graph, *, shapes: dict[str, tuple[int, ...]]) -> None:
    """Constant indices of ``Gather`` that count from the end, which not every device reads."""
    for node in of_kind(graph, "Gather"):
        index = graph.constants.get(node.input[1])
        if index is not None and (index < 0).any() and node.input[0] in shapes:
            size = shapes[node.input[0]][attributes_of(node).get("axis", 0)]
            node.input[1] = graph.constant(f"{node.input[1]}.of.{size}", np.where(index < 0, index + size, index))


def _write_weights(graph: Graph, stored: dict[str, Stored], *, form: Form) -> None:
    import ml_dtypes

    readers, nodes = graph.readers(), {}
    for tensor, weight in stored.items():
        small = weight.bits <= PACKED_BITS and form.four_bits is not None
        small = small and all(form.four_bits(node, weight) for node in readers[tensor])  # type: ignore[misc]
        integers = np.ascontiguousarray(weight.integers)
        names = [graph.constant(weight.name, integers.astype(ml_dtypes.int4) if small else integers)]
        names.append(graph.constant(f"{weight.name}_scale", weight.scale))
        along = {} if weight.axis is None else {"axis": weight.axis}
        nodes[weight.name] = graph.node("DequantizeLinear", names, [f"{weight.name}{VALUES}"], **along)
    graph.rename({tensor: f"{weight.name}{VALUES}" for tensor, weight in stored.items()})
    graph.nodes[:0] = nodes.values()
