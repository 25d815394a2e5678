"""The operations of an exported graph, counted from the graph alone, beside those of the plan."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.assembly.quantized import Quantized
from qdbev.detectors.frame_graph import TensorGraph
from qdbev.export.onnx.lowering import Lowered
from qdbev.export.onnx.qonnx.operations import by_layer, counted, differing
from qdbev.quantization import FLOAT_BITS, MacLine, Plan, count_macs

_IN_FLOAT = "all layers in float"


@dataclass(frozen=True)
class SecondCount:
    """What was counted, and where it differs.

    Attributes:
        macs: Multiply-accumulates of all layers, by the graph.
        bit_operations: Bit operations of all layers, by the graph (Eq. 7).
        differing: A sentence for each layer that the plan counts otherwise.
    """

    macs: int
    bit_operations: int
    differing: list[str]


def second_count(lowered: Lowered, *, frame: TensorGraph, quantized: Quantized) -> SecondCount:
    """Count the layers of a graph and hold them against the detector's plan, layer by layer.

    Layers in float have lost their names in a graph, so their sum is compared. Those that give the first sampling
    coordinates follow from constants alone and are no part of a graph.
    """
    lines = [line for line in count_macs(frame.detector, lambda: frame.run(frame.inputs)) if line.is_layer]
    expected = _expected(lines, plan=quantized.plan, constant=set(quantized.detector.first_positions()))
    by_path = by_layer(counted(lowered.model), paths=expected)
    strangers = [by_path.pop(path) for path in list(by_path) if path not in expected]
    by_path[_IN_FLOAT] = (sum(macs for macs, _ in strangers), sum(bits for _, bits in strangers))
    macs, bits = (sum(counts[place] for counts in by_path.values()) for place in (0, 1))
    return SecondCount(macs, bits, list(differing(by_path, expected)))


def _expected(lines: list[MacLine], *, plan: Plan, constant: set[str]) -> dict[str, tuple[int, int]]:
    quantized = {site.path: site for site in plan.quantized}
    in_float = sum(line.macs for line in lines if line.path not in quantized and line.path not in constant)
    layers = [line for line in lines if line.path in quantized]
    widths = [quantized[line.path].weight_bits * quantized[line.path].activation_bits for line in layers]
    counts = {line.path: (line.macs, line.macs * width) for line, width in zip(layers, widths, strict=True)}
    return {**counts, _IN_FLOAT: (in_float, in_float * FLOAT_BITS**2)}
