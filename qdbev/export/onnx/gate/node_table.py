"""What a runtime made of each layer, read from the graph that it rewrote: integers, float, or something else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import onnx

Fate = Literal["integers", "float", "changed"]

_INTEGER = ("QLinearConv", "QLinearMatMul", "MatMulIntegerToFloat", "MatMulInteger", "ConvInteger", "QGemm")
_CHANGED = ("MatMulNBits", "DynamicQuantizeMatMul", "DynamicQuantizeLinear")
"""These quantize their inputs anew, on grids of their own."""
_PASSING = ("DequantizeLinear", "Cast", "Mul", "Transpose", "Reshape", "Identity", "ReorderInput")


@dataclass(frozen=True)
class LayerFate:
    """One weight and what multiplies it."""

    weight: str
    operator: str
    fate: Fate


def layer_fates(optimised: onnx.ModelProto, *, weights: Mapping[str, Any]) -> list[LayerFate]:
    """The fate of each weight of integers, in the order given; tables that are only looked up are left out.

    Args:
        optimised: The rewritten graph.
        weights: Path of each weight.
    """
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in optimised.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    constants = [tensor.name for tensor in optimised.graph.initializer]
    fates = []
    for weight in weights:
        names = [name for name in constants if name == weight or name.startswith((f"{weight}/", f"{weight}_T"))]
        operators = dict.fromkeys(operator for name in names for operator in _multiplied_by(name, readers))
        fates += [LayerFate(weight, each, _fate(each)) for each in operators if each != "Gather"]
    return fates


def foreign_quantizers(optimised: onnx.ModelProto, *, weights: Mapping[str, Any]) -> list[str]:
    """Names of nodes that multiply integers of a weight that is none of ours: the runtime quantized a float layer."""
    known = tuple(weights)
    return [
        node.name
        for node in optimised.graph.node
        if node.op_type in (*_INTEGER, *_CHANGED) and not any(name.startswith(known) for name in node.input)
    ]


def _multiplied_by(name: str, readers: Mapping[str, list[onnx.NodeProto]]) -> Iterator[str]:
    for node in readers.get(name, []):
        if node.op_type in _PASSING:
            yield from _multiplied_by(node.output[0], readers)
        else:
            yield node.op_type


def _fate(operator: str) -> Fate:
    return "integers" if operator in _INTEGER else "changed" if operator in _CHANGED else "float"
