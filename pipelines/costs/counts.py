"""What a detector costs by its numbers alone: parameters, multiply-accumulates, bit operations; no data, no weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import profiles
from pipelines.assembly.quantized import detector_plan, with_quantizers
from pipelines.assembly.scene import countable
from pipelines.costs.memory import Memory, memory
from profiles import Profile
from profiles.sections.quantization import QuantizationProfile
from qdbev.quantization import (
    MacLine,
    Plan,
    bops,
    count_macs,
    fold_batchnorm,
    macs_by_part,
    not_counted,
    packed_size_bytes,
    trainable_parameters,
)
from qdbev.reporting.charts.macs_chart import macs_picture
from qdbev.reporting.tables.counts import compared_table, macs_table, memory_table, operations_table, sizes_table
from qdbev.reporting.tables.paper import TABLE_4
from qdbev.reporting.tables.table import Table

FLOAT = "W32A32"
_BITS = ((32, 32), (8, 8), (6, 6), (4, 6), (4, 4))


@dataclass(frozen=True)
class Cost:
    """A detector's cost, counted on the rig of one nuScenes scene, one frame with a history."""

    model: str
    trainable: int
    """Parameters that float training trains."""
    lines: tuple[MacLine, ...]
    """Layers and operations as they run here."""
    official: tuple[MacLine, ...]
    """The same as the official code runs them."""
    plans: dict[str, Plan]
    """Bits such as ``W4A6`` -> the plan."""
    weight_bits: Mapping[str, int]
    """The same -> bits of most weights."""


@dataclass(frozen=True)
class Footprint:
    """What a detector takes on the disk and in memory."""

    packed: Mapping[str, int]
    """Bits such as ``W4A6`` -> bytes of all tensors that are saved."""
    memory: Memory
    """Estimates for inference and training."""
    batches: tuple[int, int]
    """Batch sizes of QAT and of distillation that the estimates are for."""


def count(profile: Profile) -> Cost:
    """Count a profile's model with its own bits and those of the paper.

    Args:
        profile: Its model, data and quantization sections; only the image size of the data is read.

    Raises:
        ValueError: The detector cannot run by shapes alone.
    """
    detector, scene = countable(profile)
    sections = _sections(profile.quantization)
    plans = {section.label: detector_plan(detector, section=section) for section in sections}
    weight_bits = {section.label: section.weight_bits for section in sections}
    trainable = trainable_parameters(detector)
    here, official = detector.sampling_repeats(scene), detector.official_repeats(scene)
    lines = count_macs(detector, detector.shape_run(scene))
    return Cost(profile.model.name, trainable, _repeated(lines, here), _repeated(lines, official), plans, weight_bits)


def footprint(profile: Profile) -> Footprint:
    """What a profile's model takes with its own bits and those of the paper, and in training.

    Args:
        profile: Its model, data, quantization, qat and distillation sections.
    """
    detector, scene = countable(profile)
    sizes = {FLOAT: sum(value.numel() * value.element_size() for value in detector.state_dict().values())}
    folding = fold_batchnorm(detector, detector.shape_run(scene))
    for section in _sections(profile.quantization):
        if not section.is_float:
            wanted = profile.model_copy(update={"quantization": section})
            quantized = with_quantizers(copy.deepcopy(detector), folding, profile=wanted)
            sizes[section.label] = packed_size_bytes(quantized.detector)
    batches = (profile.qat.batch_size, profile.distillation.schedule.batch_size)
    return Footprint(sizes, memory(profile), batches)


def cost_tables(cost: Cost, *, taken: Footprint) -> list[Table]:
    """Size, multiply-accumulates and bit operations by part, memory; the paper's numbers beside them where it has any.

    Args:
        cost: What is counted.
        taken: What the same model takes.
    """
    plan, printed = cost.plans[FLOAT], TABLE_4.get(cost.model, {})
    sizes = [
        {
            "name": cost.model,
            "bits": bits,
            "parameters": cost.trainable,
            "nominal_bytes": _size(cost, bits),
            "packed_bytes": taken.packed[bits],
        }
        for bits in cost.plans
    ]
    macs = [_macs_row("here", plan=plan, lines=cost.lines), _macs_row("official code", plan=plan, lines=cost.official)]
    operations = []
    for bits, plan_at_bits in cost.plans.items():
        here, official = bops(plan_at_bits, cost.lines), bops(plan_at_bits, cost.official)
        row = {"bits": bits, **here.parts, "total": here.total, "official": official.total}
        operations.append(row | ({"paper": printed[bits].bops} if bits in printed else {}))
    return [
        sizes_table(sizes),
        macs_table(macs, parts=plan.parts),
        operations_table(operations, parts=plan.parts, not_counted=not_counted(cost.lines)),
        memory_table(_memory_rows(taken)),
    ]


def macs_png(cost: Cost) -> bytes:
    """The multiply-accumulates of each part as bars."""
    row = _macs_row(cost.model, plan=cost.plans[FLOAT], lines=cost.lines)
    macs = {name.replace("_", " "): int(value) for name, value in row.items() if name not in ("name", "total")}
    operations = [name for name in macs if name not in cost.plans[FLOAT].parts]
    return macs_picture(macs, operations=operations, title=f"{cost.model}: multiply-accumulates of one frame")


def paper_table() -> Table:
    """Table 4's efficiency columns of every variant beside ours, counted as the official code runs."""
    rows = []
    for name, printed in TABLE_4.items():
        cost = count(profiles.load("float", model=name))
        for bits, paper in printed.items():
            rows.append(
                {
                    "model": name,
                    "bits": bits,
                    "paper_mb": paper.size_mb,
                    "size_mb": _size(cost, bits) / 2**20,
                    "paper_bops": paper.bops,
                    "bops": bops(cost.plans[bits], cost.official).total,
                }
            )
    return compared_table(rows)


def _sections(stated: QuantizationProfile) -> list[QuantizationProfile]:
    """The bits of the paper, uniform, and a profile's own; of a bit plan only the store knows the layers."""
    stated = stated.model_copy(update={"plan": None})
    uniform = stated.model_copy(update={"first_last_bits": None})
    return [*(uniform.model_copy(update={"weight_bits": w, "activation_bits": a}) for w, a in _BITS), stated]


def _memory_rows(taken: Footprint) -> list[dict[str, object]]:
    qat, distillation = taken.batches
    return [
        {"name": "inference", "batch": 1, "bytes": taken.memory.inference},
        {"name": "a step of QAT", "batch": qat, "bytes": taken.memory.qat_step},
        {"name": "a step of distillation", "batch": distillation, "bytes": taken.memory.distillation_step},
    ]


def _repeated(lines: Sequence[MacLine], repeats: Mapping[str, Fraction]) -> tuple[MacLine, ...]:
    return tuple(replace(line, macs=int(line.macs * repeats.get(line.path, Fraction(1)))) for line in lines)


def _size(cost: Cost, bits: str) -> float:
    """Bytes by the paper's rule: every trainable parameter at the bits of most weights."""
    return cost.trainable * cost.weight_bits[bits] / 8


def _macs_row(name: str, *, plan: Plan, lines: Sequence[MacLine]) -> dict[str, Any]:
    parts = macs_by_part(plan, lines)
    operations = {
        kind: sum(line.macs for line in lines if line.kind == kind) for kind in ("attention_product", "sampling")
    }
    return {"name": name, **parts, "total": sum(parts.values()), **operations}
