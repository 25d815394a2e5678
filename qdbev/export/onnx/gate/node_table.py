"""What a runtime made of each layer, read from the graph that it rewrote: integers, float, or something else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from qdbev.export.onnx.stored_weights import VALUES

if TYPE_CHECKING:
    import onnx

Fate = Literal["integers", "float", "changed"]

INTEGER_OPERATORS = ("QLinearConv", "QLinearMatMul", "MatMulIntegerToFloat", "MatMulInteger", "ConvInteger", "QGemm")
_CHANGED = ("MatMulNBits", "DynamicQuantizeMatMul", "DynamicQuantizeLinear")
"""These quantize their inputs anew, on grids of their own."""
_TURNED = "/transpose_b"
"""End of the name of a weight that OpenVINO turned: it keeps that of the product where the product itself loses it."""
_PASSING = ("DequantizeLinear", "Cast", "Mul", "Transpose", "Reshape", "Identity", "ReorderInput")


@dataclass(frozen=True)
class LayerFate:
    """One weight and what multiplies it."""

    weight: str
    operator: str
    fate: Fate


def layer_fates(optimised: onnx.ModelProto, *, weights: Iterable[str]) -> list[LayerFate]:
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
        if not names:  # its floats were laid out anew, as ONNX Runtime's convolutions of floats want them
            operators = dict.fromkeys(["Conv"])
        fates += [LayerFate(weight, each, _fate(each)) for each in operators if each != "Gather"]
    return fates


def foreign_quantizers(optimised: onnx.ModelProto, *, weights: Iterable[str]) -> list[str]:
    """Names of nodes that multiply integers of a weight that is none of ours: the runtime quantized a float layer."""
    known = tuple(weights)
    return [
        node.name
        for node in optimised.graph.node
        if node.op_type in (*INTEGER_OPERATORS, *_CHANGED) and not any(name.startswith(known) for name in node.input)
    ]


def _multiplied_by(name: str, readers: Mapping[str, list[onnx.NodeProto]]) -> Iterator[str]:
    for node in readers.get(name, []):
        if node.op_type in _PASSING:
            yield from _multiplied_by(node.output[0], readers)
        else:
            yield node.op_type


def _fate(operator: str) -> Fate:
    return "integers" if operator in INTEGER_OPERATORS else "changed" if operator in _CHANGED else "float"


def layer_fates_of_openvino(
    runtime_model: Any, *, exported: onnx.ModelProto, weights: Iterable[str]
) -> list[LayerFate]:
    """The same of OpenVINO, whose nodes name those of the exported graph that they were made of.

    Args:
        runtime_model: What a compiled model says that it runs.
        exported: The graph as exported.
        weights: Path of each weight.
    """
    made = {name: node for node in _products(runtime_model) for name in node.originals}
    multiplied_by = _readers_of_weights(exported, weights)
    fates = []
    for weight, names in multiplied_by.items():
        node = next((made[name] for name in names if name in made), _Product("unnamed", False, []))
        fates.append(LayerFate(weight, node.kind, "integers" if node.integers else "float"))
    return fates


def foreign_quantizers_of_openvino(
    runtime_model: Any, *, exported: onnx.ModelProto, weights: Iterable[str]
) -> list[str]:
    """The same as ``foreign_quantizers`` of OpenVINO."""
    known = {name for names in _readers_of_weights(exported, weights).values() for name in names}
    return [
        node.originals[0]
        for node in _products(runtime_model)
        if node.integers and not known.intersection(node.originals)
    ]


@dataclass(frozen=True)
class _Product:
    """A convolution or product that OpenVINO runs."""

    kind: str
    integers: bool
    originals: list[str]


def _products(runtime_model: Any) -> Iterator[_Product]:
    for operation in runtime_model.get_ops():
        said = {name: str(value.value) for name, value in operation.get_rt_info().items() if hasattr(value, "value")}
        if said.get("layerType") in ("Convolution", "FullyConnected", "MatMul", "DeformableConvolution"):
            names = (name.partition("/Dequantization")[0] for name in said["originalLayersNames"].split(","))
            originals = [name.removesuffix("/WithoutBiases").removesuffix("_original") for name in names]
            weight = operation.inputs()[1].get_source_output().get_node().get_friendly_name()
            originals += [weight.removesuffix(_TURNED)] if weight.endswith(_TURNED) else []
            yield _Product(said["layerType"], said["runtimePrecision"] in ("u8", "i8"), originals)


def _readers_of_weights(exported: onnx.ModelProto, weights: Iterable[str]) -> dict[str, list[str]]:
    """Path of each weight -> names of the nodes that multiply by its values; tables are only looked up.

    OpenVINO calls a node whose result is an output of the graph by the name of the output.
    """
    readers: dict[str, list[str]] = {}
    for node in exported.graph.node:
        for name in node.input if node.op_type != "Gather" else ():
            readers.setdefault(name, []).extend([node.name, *node.output])
    return {weight: readers[f"{weight}{VALUES}"] for weight in weights if f"{weight}{VALUES}" in readers}
