"""What a detector costs by its numbers alone: parameters, multiply-accumulates, bit operations; no data, no weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import torch

import profiles
from pipelines.assemble import build_detector
from pipelines.quantized import detector_plan
from profiles import Profile
from qdbev.data.rig import nuscenes_lidar2img
from qdbev.detectors.bevformer.counting import Scene, official_repeats, sampling_repeats, shape_run
from qdbev.quantization import MacLine, Plan, bops, count_macs, macs_by_part, trainable_parameters
from qdbev.reporting.counts import compared_table, macs_table, operations_table, sizes_table
from qdbev.reporting.paper import TABLE_4
from qdbev.reporting.tables import Table

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


def count(profile: Profile) -> Cost:
    """Count a profile's model with its own bits and those of the paper.

    Args:
        profile: Its model, data and quantization sections; only the image size of the data is read.
    """
    model = profile.model
    detector = build_detector(model)
    own = profile.quantization
    uniform = own.model_copy(update={"first_last_bits": None})
    sections = [uniform.model_copy(update={"weight_bits": w, "activation_bits": a}) for w, a in _BITS]
    plans = {section.label: detector_plan(detector, section=section) for section in (*sections, own)}
    weight_bits = {section.label: section.weight_bits for section in (*sections, own)}
    trainable = trainable_parameters(detector)
    scene = _scene(profile)
    here, official = sampling_repeats(detector, scene), official_repeats(detector, scene)
    lines = count_macs(detector, shape_run(detector, scene))
    return Cost(model.name, trainable, _repeated(lines, here), _repeated(lines, official), plans, weight_bits)


def cost_tables(cost: Cost) -> list[Table]:
    """Size, multiply-accumulates by part, bit operations by part; the paper's numbers beside them where it has any."""
    plan, printed = cost.plans[FLOAT], TABLE_4.get(cost.model, {})
    sizes = [
        {"name": cost.model, "bits": bits, "parameters": cost.trainable, "nominal_bytes": _size(cost, bits)}
        for bits in cost.plans
    ]
    macs = [_macs_row("here", plan=plan, lines=cost.lines), _macs_row("official code", plan=plan, lines=cost.official)]
    operations = []
    for bits, each in cost.plans.items():
        here, official = bops(each, cost.lines), bops(each, cost.official)
        row = {"bits": bits, **here.parts, "total": here.total, "official": official.total}
        operations.append(row | ({"paper": printed[bits].bops} if bits in printed else {}))
    return [
        sizes_table(sizes),
        macs_table(macs, parts=plan.parts),
        operations_table(operations, parts=plan.parts),
    ]


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


def _scene(profile: Profile) -> Scene:
    """The network's input for images of the profile's size."""
    image, (width, height) = profile.model.image, profile.data.image_size_px
    padded = [-(-round(side * image.scale) // image.pad_divisor) * image.pad_divisor for side in (height, width)]
    matrices = nuscenes_lidar2img(image_size_px=(width, height), scale=image.scale)
    return Scene((padded[0], padded[1]), torch.from_numpy(matrices).float())


def _repeated(lines: Sequence[MacLine], repeats: Mapping[str, Fraction]) -> tuple[MacLine, ...]:
    return tuple(replace(line, macs=int(line.macs * repeats.get(line.path, Fraction(1)))) for line in lines)


def _size(cost: Cost, bits: str) -> float:
    """Bytes by the paper's rule: every trainable parameter at the bits of most weights."""
    return cost.trainable * cost.weight_bits[bits] / 8


def _macs_row(name: str, *, plan: Plan, lines: Sequence[MacLine]) -> dict[str, object]:
    parts = macs_by_part(plan, lines)
    operations = {
        kind: sum(line.macs for line in lines if line.kind == kind) for kind in ("attention_product", "sampling")
    }
    return {"name": name, **parts, "total": sum(parts.values()), **operations}
