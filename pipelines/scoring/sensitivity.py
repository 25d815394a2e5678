"""The paper's table 1: a detector scored with each part alone quantized, or each layer, and with all (no training)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.assembly.job import Job
from pipelines.assembly.quantized import Quantized, quantized_from_float
from pipelines.assembly.samples import Split, notes_on
from pipelines.assembly.weights import float_artifact, float_detector, package_versions
from pipelines.calibration.observing import observe, refuse_evaluation_samples
from pipelines.lineage.keys import sensitivity_key
from pipelines.lineage.kinds import SENSITIVITY, SENSITIVITY_PICTURE
from pipelines.scoring.comparison import interval, match_results, resampled
from pipelines.scoring.prediction import refuse_nothing_to_find, score_results
from pipelines.scoring.results import Results
from pipelines.scoring.shared_run import Row, SharedRun
from pipelines.store.making import Content, Made, made
from profiles import Profile
from profiles.sections.schedule import PARTS
from qdbev.reporting.charts.sensitivity_chart import sensitivity_picture


def sensitivity_of(job: Job, *, level: str) -> Made:
    """The sealed table of a profile, measured where it is missing.

    Args:
        job: Its model, quantization, calibration and evaluation sections and the seed decide the result.
        level: ``part`` for the paper's table, ``module`` for every layer alone.

    Raises:
        ValueError: Calibration samples that are evaluated.
    """
    source = float_artifact(job)  # missing weights are said before scenes are made
    split = job.evaluation_split()
    tokens = refuse_evaluation_samples(job.calibration_samples(), evaluated=split)
    key = sensitivity_key(job.profile, level=level, source=source.digest, data=split.digest, tokens=tokens)
    scratch = job.store.scratch_path(SENSITIVITY, key=key)
    make = partial(_measure, job, level=level, source=source.digest, tokens=tokens, scratch=scratch)
    return made(job, SENSITIVITY, key=key, make=make, known="already measured; --force does it again")


def _measure(job: Job, *, level: str, source: str, tokens: list[str], scratch: Path) -> Content:
    """Quantize, calibrate and score every row."""
    profile, split = job.profile, job.evaluation_split()
    refuse_nothing_to_find(split)
    detector, _ = float_detector(job)
    quantized = quantized_from_float(detector, profile=profile, split=job.split("train"), bits=job.bits)
    observe(quantized, job=job, progress=job.progress)
    shared, scored = measure(quantized, level=level, split=split, job=job, scratch=scratch)
    return Content(
        partial(_write, rows=scored),
        parents={"float": source},
        data={
            "val": split.digest,
            "scenes": len(split.scenes),
            "samples": len(split.samples),
            "calibration_tokens": tokens,
            "level": level,
        },
        metrics={"rows": scored, "stages_run": shared.stages_run, "stages_without_sharing": shared.stages_asked},
        packages=package_versions(),
        notes=notes_on(split),
        seconds={"forward": shared.seconds, "forward_without_sharing": shared.seconds_unshared},
        message=f"forward passes: {shared.saving()}",
    )


def measure(
    quantized: Quantized, *, level: str, split: Split, job: Job, scratch: Path | None = None
) -> tuple[SharedRun, list[dict[str, Any]]]:
    """The run of all rows over a split, and their scores, with intervals for parts where the profile asks for them."""
    rows = make_rows(quantized, level=level)
    shared = SharedRun(quantized, rows=rows, split=split, job=job, scratch=scratch)
    results = shared.run()
    scored = [
        {"name": row.name, "part": row.part, **score_results(results[row.name], split=split).flat()} for row in rows
    ]
    if level == "part" and resampled(len(split.scenes), profile=job.profile):
        add_intervals(scored, results=results, split=split, profile=job.profile)
    return shared, scored


def make_rows(quantized: Quantized, *, level: str) -> list[Row]:
    """Float, each part (or layer) alone, and all."""
    sites = {site.path: site.part for site in quantized.plan.quantized}
    if level == "part":
        parts = [part for part in PARTS if part in sites.values()]
        alone = [Row(part, part, frozenset(path for path, of in sites.items() if of == part)) for part in parts]
    else:
        alone = [Row(path, part, frozenset([path])) for path, part in sites.items()]
    return [Row("float", "", frozenset()), *alone, Row("all", "", frozenset(sites))]


def add_intervals(
    scored: list[dict[str, Any]], *, results: Mapping[str, Results], split: Split, profile: Profile
) -> None:
    """Put the paired interval of NDS minus float's into every row but the float one."""
    matches = {name: match_results(entries, split=split) for name, entries in results.items()}
    for row in scored[1:]:
        change = interval(matches[scored[0]["name"]], matches[row["name"]], profile=profile)
        row |= {"NDS_low": change["low"], "NDS_high": change["high"]}


def _write(folder: Path, *, rows: list[dict[str, Any]]) -> None:
    ranked = [row for row in rows if row["name"] != "float"]
    (folder / SENSITIVITY_PICTURE).write_bytes(sensitivity_picture(ranked, reference_nds=rows[0]["NDS"]))
