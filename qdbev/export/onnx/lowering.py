"""From the neutral graph to that of a runtime on a CPU: weights as small integers, inputs as QCDQ, biases in int32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qdbev.export.onnx.activations import STEPS, Grid, write_grids
from qdbev.export.onnx.biases import fold_offsets, write_biases
from qdbev.export.onnx.constant_grids import let_constants_depend
from qdbev.export.onnx.convolutions import multiply_rows
from qdbev.export.onnx.graph import Array, Graph
from qdbev.export.onnx.packages import onnx_package
from qdbev.export.onnx.shapes import known_shapes
from qdbev.export.onnx.stored_weights import Stored, stored_weights, write_integers

if TYPE_CHECKING:
    import onnx

OPSET, IR_VERSION = 21, 10
"""The first ones with 4-bit integers; nothing newer is of use here."""


@dataclass(frozen=True)
class Lowered:
    """A graph that a runtime runs, and what it computes otherwise than the detector."""

    model: onnx.ModelProto
    biases: dict[str, Array]
    """Path of each bias that became integers -> the values that these stand for."""
    weights: dict[str, Stored]
    """Path of each weight of integers -> what it is."""
    grids: dict[str, Grid]
    """Path of each input quantizer -> its grid."""

    @property
    def taps(self) -> list[str]:
        """Names of the tensors of integers that layers read."""
        return [f"{name}{STEPS}" for name in self.grids]


def runtime_graph(neutral: onnx.ModelProto, *, target: str = "ort") -> Lowered:
    """Return the graph that a runtime runs.

    Args:
        neutral: With its constants folded; it is changed.
        target: ``ort``; or ``openvino``, which takes layers into integers whatever their bias and what follows.
    """
    shapes = known_shapes(neutral) if target == "ort" else {}
    graph = Graph(neutral)
    stored = stored_weights(graph)
    if target == "openvino":
        let_constants_depend(graph, weights=stored)
    # without a Clip, OpenVINO 2026.4.1 moves scales of bytes through a Concat and then fails to broadcast them
    grids = write_grids(graph, clips_bytes=target == "openvino", shares=target == "ort")
    fold_offsets(graph, grids=grids, stored=stored)
    biases = write_biases(graph, grids=grids, stored=stored, shapes=shapes) if target == "ort" else {}
    in_float = multiply_rows(graph, grids=grids, stored=stored) if target == "ort" else set[str]()
    read = graph.readers()
    write_integers(graph, stored, unsigned_bytes=target == "ort", in_float=in_float)
    graph.join_outputs()
    model = graph.finish()
    del model.opset_import[:]
    model.opset_import.append(onnx_package().helper.make_opsetid("", OPSET))
    model.ir_version = IR_VERSION
    return Lowered(
        model,
        biases=biases,
        weights={weight.name: weight for tensor, weight in stored.items() if tensor in read},
        grids={grid.name: grid for grid in grids.values()},
    )
