"""A graph of QONNX run by ONNX Runtime, by the definition of ``Quant`` that goes with the file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from qdbev.export.onnx.activations import STEPS
from qdbev.export.onnx.execution import OrtSession
from qdbev.export.onnx.gate.node_table import LayerFate
from qdbev.export.onnx.graph import attributes_of
from qdbev.export.onnx.packages import onnx_package
from qdbev.export.onnx.qonnx.lowering import QUANT

if TYPE_CHECKING:
    import onnx


class QonnxSession(OrtSession):
    """All of it in floats, which stand for integers."""

    def __init__(self, model: onnx.ModelProto, *, threads: int = 1, taps: Sequence[str] = ()) -> None:
        """See ``Session``; the integers of a tap are computed from what its ``Quant`` gives."""
        super().__init__(_with_steps(model, taps) if taps else model, threads=threads, taps=taps)

    def layers(self, weights: Iterable[str]) -> list[LayerFate]:
        """Nothing: what compilers make of a layer is not seen here."""
        return []


def _with_steps(model: onnx.ModelProto, taps: Sequence[str]) -> onnx.ModelProto:
    """The model with a tensor of bytes for each tap: the integers of its grid, counted from the smallest one."""
    package = onnx_package()
    extended: onnx.ModelProto = package.ModelProto()
    extended.CopyFrom(model)
    quants = {node.name: node for node in model.graph.node}
    bits = {tensor.name: package.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for tap in taps:
        quant = quants[f"{tap.removesuffix(STEPS)}{QUANT}"]
        attributes: dict[str, Any] = attributes_of(quant)
        half = 2.0 ** (float(bits[quant.input[3]]) - 1)
        zero = (half - attributes["narrow"]) * attributes["signed"]
        extended.graph.node.extend(_step_nodes(quant, tap=tap, zero=zero))
    return extended


def _step_nodes(quant: onnx.NodeProto, *, tap: str, zero: float) -> list[onnx.NodeProto]:
    helper, kind = onnx_package().helper, onnx_package().TensorProto.UINT8
    names = [f"{tap}.{ending}" for ending in ("zero", "ratio", "signed", "whole")]
    return [
        helper.make_node("Constant", [], [names[0]], value_float=zero),
        helper.make_node("Div", [quant.output[0], quant.input[1]], [names[1]]),
        helper.make_node("Round", [names[1]], [names[2]]),
        helper.make_node("Add", [names[2], names[0]], [names[3]]),
        helper.make_node("Cast", [names[3]], [tap], to=kind),
    ]
