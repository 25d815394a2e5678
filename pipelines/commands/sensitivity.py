"""sensitivity: the paper's table 1; each part alone quantized, and all, or each layer alone (no training)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.assembly.quantized import Quantized, quantized_from_float
from pipelines.assembly.samples import Split, load_split, notes_on_motion
from pipelines.assembly.weights import float_detector, package_versions
from pipelines.calibration.calibrated import observe, refuse_evaluation_samples
from pipelines.lineage.bit_plan import planned_bits, with_plan_found
from pipelines.reporting.outcome import Outcome
from pipelines.scoring.comparison import interval, match_results
from pipelines.scoring.prediction import Results, evaluation_split, score_results
from pipelines.scoring.shared_run import Row, SharedRun
from pipelines.store.artifacts import Artifact, Store
from profiles import Profile, fingerprint
from profiles.sections.schedule import PARTS
from qdbev.data.queues.calibration import calibration_samples
from qdbev.reporting.charts.sensitivity_chart import sensitivity_picture
from qdbev.reporting.tables.results import sensitivity_table

KIND = "sensitivity"


def run(
    profile: Profile,
    *,
    store: Store,
    level: str = "part",
    force: bool = False,
    dry_run: bool = False,
    progress: bool = True,
) -> Outcome:
    """Measure the table and seal it.

    Args:
        profile: Model, quantization, calibration and evaluation sections and the seed decide the result.
        store: Where it goes.
        level: ``part`` for the paper's table, ``module`` for every layer alone.
        force: Measure again even if sealed.
        dry_run: Say what would be done.
        progress: Show bars.

    Raises:
        ValueError: An unknown level, a profile that quantizes nothing, another method than ptq, or calibration samples
            that are evaluated.
    """
    if level not in ("part", "module"):
        raise ValueError(f"level is {level!r}, expected part or module")
    if profile.quantization.is_float:
        raise ValueError(f"profile {profile.name} quantizes nothing; choose one such as w4a6, or give --bits")
    if profile.calibration.label != "ptq":
        raise ValueError(
            f"the table is measured with method ptq alone, not {profile.calibration.label}: what that changes in "
            "weights and biases would shift the rows that leave them in float; set calibration.method to ptq (default)"
        )
    if dry_run:
        label = profile.quantization.label
        return Outcome(would_do=[f"evaluate {profile.model.name} with each {level} alone in {label}, and all"])
    profile = with_plan_found(profile, store=store)
    detector, source = float_detector(profile, store=store)  # missing weights are said before scenes are made
    split = evaluation_split(profile, progress=progress)
    train = load_split(profile.data, name="train", progress=progress)
    samples = calibration_samples(train.samples, count=profile.calibration.samples, seed=profile.calibration.seed)
    tokens = refuse_evaluation_samples(samples, evaluated=split)
    key = table_key(profile, level=level, source=source.digest, data=split.digest, tokens=tokens)
    if not force and (known := store.find(KIND, key=key)):
        return _outcome(known, message="already measured; --force does it again")
    quantized = quantized_from_float(detector, profile=profile, split=train, bits=planned_bits(profile, store=store))
    observe(quantized, split=train, samples=samples, profile=profile, progress=progress)
    shared, scored = measure(quantized, level=level, split=split, profile=profile, progress=progress)
    artifact = store.seal(
        KIND,
        profile=profile,
        key=key,
        write=lambda folder: _write(folder, rows=scored),
        parents={"float": source.digest},
        data={"val": split.digest, "scenes": len(split.scenes), "calibration_tokens": tokens, "level": level},
        metrics={"rows": scored, "stages_run": shared.stages_run, "stages_without_sharing": shared.stages_asked},
        packages=package_versions(),
        notes=notes_on_motion(split),
        seconds={"forward": shared.seconds, "forward_without_sharing": shared.seconds_unshared},
        replace=force,
    )
    return _outcome(artifact, message=f"forward passes: {shared.saving()}")


def measure(
    quantized: Quantized, *, level: str, split: Split, profile: Profile, progress: bool = False
) -> tuple[SharedRun, list[dict[str, Any]]]:
    """The run of all rows over a split, and their scores, with intervals for parts where the profile asks for them."""
    rows = make_rows(quantized, level=level)
    shared = SharedRun(quantized, rows=rows, split=split, profile=profile)
    results = shared.run(progress=progress)
    scored = [
        {"name": row.name, "part": row.part, **score_results(results[row.name], split=split).flat()} for row in rows
    ]
    if level == "part" and profile.evaluation.bootstrap_resamples > 1:
        add_intervals(scored, results=results, split=split, profile=profile)
    return shared, scored


def table_key(profile: Profile, *, level: str, source: str, data: str, tokens: Sequence[str]) -> str:
    """The fingerprint of all that decides a table.

    Args:
        profile: Its model, quantization and evaluation sections and the seed of the intervals.
        level: ``part`` or ``module``.
        source: Digest of the float artifact.
        data: Digest of the split that is scored.
        tokens: The calibration samples.
    """
    return fingerprint(
        {
            "kind": KIND,
            "parent": source,
            "model": profile.model.content() | {"weights": None},
            "quantization": profile.quantization.content(),
            "tokens": list(tokens),
            "data": data,
            "max_boxes": profile.evaluation.max_boxes,
            "level": level,
            "resamples": profile.evaluation.bootstrap_resamples,
            "seed": profile.seed,
        }
    )


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
        found = interval(matches[scored[0]["name"]], matches[row["name"]], profile=profile)
        row |= {"NDS_low": found["low"], "NDS_high": found["high"]}


def _write(folder: Path, *, rows: list[dict[str, Any]]) -> None:
    (folder / "sensitivity.png").write_bytes(sensitivity_picture(_ranked(rows), reference_nds=rows[0]["NDS"]))


def _ranked(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["name"] != "float"]


def _outcome(artifact: Artifact, *, message: str) -> Outcome:
    rows: Any = artifact.manifest.metrics["rows"]
    picture = artifact.file("sensitivity.png")
    table = sensitivity_table(rows, reference="float")
    return Outcome(artifact, tables=[table], metrics={"rows": rows}, messages=[message, f"picture: {picture}"])
