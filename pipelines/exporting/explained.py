"""What a target makes of a quantized detector, layer by layer, by the documented rules: nothing is run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pipelines.assembly.quantized import Quantized
from qdbev.export.targets.rules import Kind, Layer, rule_for
from qdbev.quantization import quantized_layers
from qdbev.reporting.tables.table import Table, plain_table

_KINDS: dict[str, Kind] = {
    "linear": "linear",
    "attention": "linear",
    "embedding": "table",
    "deformable_conv": "deformable convolution",
}


def explained(quantized: Quantized, *, target: str) -> Table:
    """A row for each quantized layer: its bits, what these become, as what it runs, and who says so."""
    layers, rows = quantized_layers(quantized.detector), []
    for site in quantized.plan.quantized:
        weight = next(iter(layers[site.path].quantized_weights())).value
        rule = rule_for(_layer(site.kind, weight.shape), target=target)
        bits = f"W{site.weight_bits}A{site.activation_bits}" if site.kind != "embedding" else f"W{site.weight_bits}"
        rows.append([site.path, bits, rule.fate, rule.how, rule.source])
    counts = Counter(row[2] for row in rows)
    return plain_table(
        "explained",
        title=f"What {target} makes of each layer",
        headers=["layer", "bits", "becomes", "runs as", "source"],
        rows=rows,
        notes=[", ".join(f"{count} {fate}" for fate, count in counts.items())],
    )


def _layer(kind: str, shape: Sequence[int]) -> Layer:
    outputs, inputs, *kernel = (int(side) for side in shape)
    plain: Any = "1x1 convolution" if all(side == 1 for side in kernel) else "convolution"
    return Layer(_KINDS.get(kind, plain), narrowest=min(outputs, inputs), outputs=outputs)
