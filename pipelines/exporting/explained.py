"""What a target makes of a quantized detector, layer by layer, by the documented rules: nothing is run."""

from __future__ import annotations

from collections import Counter

from pipelines.assembly.quantized import Quantized
from qdbev.export.targets.legal import stride_of
from qdbev.export.targets.rules import layer_of, rule_for
from qdbev.quantization import quantized_layers
from qdbev.reporting.tables.table import Table, plain_table


def explained(quantized: Quantized, *, target: str) -> Table:
    """A row for each quantized layer: its bits, what these become, as what it runs, and who says so."""
    layers, rows = quantized_layers(quantized.detector), []
    for site in quantized.plan.quantized:
        weight = next(iter(layers[site.path].quantized_weights())).rows
        rule = rule_for(layer_of(site.kind, weight.shape, stride=stride_of(layers[site.path])), target=target)
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
