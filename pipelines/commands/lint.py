"""lint: operations of a float detector that quantize badly, with layer, measured range and remedy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pipelines.assembly.job import Job
from pipelines.assembly.weights import float_detector
from pipelines.calibration.hazards import hazards_of, in_words
from pipelines.costs.preflight import preflight
from pipelines.reporting.outcome import Outcome
from qdbev.quantization import REMEDIES, Hazard, hazard_counts
from qdbev.reporting.tables.table import Column, Table, name_column


def run(job: Job, *, dry_run: bool = False) -> Outcome:
    """Run two frames of the train split in float and look; nothing is sealed.

    Args:
        job: Its model section, and its quantization section, whose bits judge the layers.
        dry_run: Say what would be done.

    Returns:
        The command's outcome; its details hold ``findings``: code, layer, operation, low, high and remedy of each.

    Raises:
        ValueError: A float profile.
    """
    profile = job.stated
    if profile.quantization.is_float:
        raise ValueError(f"profile {profile.name} quantizes nothing; choose one such as w4a6")
    said = preflight(job, dry_run=dry_run, calibrates=False)
    where = f"two frames of {profile.model.name} in float, judged at {profile.quantization.label}"
    if dry_run:
        return Outcome(would_do=[f"look for operations that quantize badly: {where}"], messages=said)
    detector, _ = float_detector(job)
    hazards = hazards_of(detector.to(job.device), job=job)
    message = in_words(hazards) if hazards else "no operation was seen that quantizes badly"
    return Outcome(
        tables=[_table(hazards)] if hazards else [],
        metrics={"hazards": hazard_counts(hazards)},
        messages=[f"{message} ({where})"],
        details={"findings": [_row(hazard) for hazard in hazards]},
    )


def _row(hazard: Hazard) -> dict[str, Any]:
    """A hazard as plain values; an end of its range that is infinite or no number is null."""
    ends = {end: value if math.isfinite(value := getattr(hazard, end)) else None for end in ("low", "high")}
    return asdict(hazard) | ends | {"remedy": hazard.remedy}


def _table(hazards: Sequence[Hazard]) -> Table:
    columns = (
        Column("number", "", lambda row: str(row["number"])),  # a narrow terminal shows the columns in two tables
        name_column("code", head="code"),
        Column("layer", "layer", lambda row: row["layer"] or "(the detector)", right=False),
        name_column("operation", head="operation"),
        Column("range", "measured", lambda row: row["range"]),
    )
    rows = [
        {"number": number} | _row(hazard) | {"range": f"{hazard.low:.3g} .. {hazard.high:.3g}"}
        for number, hazard in enumerate(hazards, start=1)
    ]
    notes = [f"{code}: {REMEDIES[code]}" for code in hazard_counts(hazards)]
    return Table("lint", "Operations that quantize badly", columns, tuple(rows), notes=tuple(notes))
