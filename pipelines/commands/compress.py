"""compress: the whole of Algorithm 1; calibrate, stage after stage, distil, score each, and say what differs."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from pipelines.lineage.bit_plan import with_plan_found
from pipelines.lineage.chain import Link, chain_of, sealed_chain
from pipelines.reporting.chain_tables import COMPRESSION, against, chain_metrics, chain_tables, is_drawn
from pipelines.reporting.outcome import Outcome
from pipelines.reporting.training_curve import curve_png
from pipelines.store.artifacts import Artifact, MissingArtifact, Store
from pipelines.store.locations import stated_data, stated_weights
from profiles import Profile, fingerprint
from profiles.sections.model import BEVFORMER
from profiles.sections.schedule import PARTS

KIND = COMPRESSION
_NOTHING_TRAINED = "no controls: no step is trained, so the float detector itself is the float control"


def run(
    profile: Profile,
    *,
    store: Store,
    stages: int | None = None,
    controls: bool = False,
    force: bool = False,
    dry_run: bool = False,
    progress: bool = True,
) -> Outcome:
    """Run every stage that is not sealed yet; a killed run goes on where it was.

    Args:
        profile: What is wanted.
        store: Where every stage is sealed.
        stages: Stages of progressive QAT, 1 to 4, in place of the profile's.
        controls: Also train float and QAT for as many steps, without bits and without a teacher, and compare.
        force: Do every stage again.
        dry_run: Say what would be done.
        progress: Show bars.
    """
    profile, remarks = without_distillation(profile)
    if controls and not _steps(profile):
        controls, remarks = False, [*remarks, _NOTHING_TRAINED]
    if dry_run:
        return Outcome(would_do=[*_would_do(profile, stages=stages or profile.qat.stages, controls=controls), *remarks])
    profile = with_plan_found(profile, store=store)
    key = _key(profile, store=store, stages=stages or profile.qat.stages, controls=controls)
    links, message = None, "already compressed; --force does it again"
    sealed = None if force else store.find(KIND, key=key)
    if sealed is not None:
        with contextlib.suppress(MissingArtifact):  # a stage was deleted: it is made again
            links = sealed_chain(sealed, store=store)
    if sealed is None or links is None:
        sealed = _compress(
            profile, store=store, key=key, stages=stages, controls=controls, force=force, progress=progress
        )
        links, message = sealed_chain(sealed, store=store), "compressed"
    intervals: Any = sealed.manifest.metrics.get("intervals", {})
    return Outcome(
        sealed,
        tables=chain_tables(links, intervals=intervals),
        metrics=chain_metrics(links, intervals=intervals),
        messages=[*remarks, message],
    )


def without_distillation(profile: Profile) -> tuple[Profile, list[str]]:
    """The profile without its distillation where the detector has no taps, and then a sentence that says so.

    Args:
        profile: Any; one whose detector has taps comes back as it is.

    Raises:
        ValueError: The detector has taps, but not on all that its distillation compares.
    """
    section = profile.distillation
    if not section.schedule.steps or profile.model.detector == BEVFORMER:
        return profile, []
    if profile.model.tapped:
        from pipelines.training.objectives import refuse_untapped

        refuse_untapped(profile)
        return profile, []
    schedule = section.schedule.model_copy(update={"steps": 0})
    without = profile.model_copy(update={"distillation": section.model_copy(update={"schedule": schedule})})
    return without, [
        f"no distillation: {profile.model.name} is known by its mmdet3d config, and model.mmdet3d.taps name no features"
    ]


def _steps(profile: Profile) -> int:
    """Steps of all stages and of distillation together."""
    parts = [part for part in PARTS if part not in profile.model.empty_parts]
    return profile.qat.steps(parts) + profile.distillation.schedule.steps


def _compress(
    profile: Profile, *, store: Store, key: str, stages: int | None, controls: bool, force: bool, progress: bool
) -> Artifact:
    from pipelines.assembly.weights import float_artifact
    from pipelines.calibration.calibrated import calibrated  # torch and mmdet3d take seconds to import
    from pipelines.commands import train_float
    from pipelines.scoring.comparison import interval_between, intervals_to_first
    from pipelines.scoring.evaluation import evaluate_artifact
    from pipelines.training.distillation import distil
    from pipelines.training.stages import trained_stages
    from pipelines.training.teacher import refuse_unkeepable

    if profile.distillation.schedule.steps:
        refuse_unkeepable(profile)
    evaluations: list[Artifact] = []

    def score(model: Artifact) -> None:
        evaluations.append(evaluate_artifact(profile, store=store, model=model, force=force, progress=progress))

    score(float_artifact(profile, store=store))
    packages = dict(evaluations[0].manifest.packages)
    calibration, _ = calibrated(profile, store=store, force=force, progress=progress)
    each = score if profile.qat.evaluate_each_stage else None
    artifact, _ = trained_stages(profile, store=store, stages=stages, force=force, progress=progress, on_stage=each)
    if each is None:
        score(calibration)
        score(artifact)
    last, held = artifact, []
    if profile.distillation.schedule.steps:
        last, _ = distil(profile, store=store, parent=artifact, force=force, progress=progress)
        score(last)
    if controls:
        qat = profile.qat.model_copy(update={"stages": stages or profile.qat.stages})
        wanted = profile.model_copy(update={"qat": qat})
        made = train_float.run(wanted, store=store, further=True, force=force, progress=progress)
        assert made.artifact is not None
        held = [made.artifact]
        if last is not artifact:
            longer, _ = distil(profile, store=store, parent=artifact, distilled=False, force=force, progress=progress)
            held.append(longer)
        for model in held:
            score(model)
    chain = chain_of(last, store=store, controls=held, evaluations=evaluations)
    links = [link for link in chain if link.evaluation is not None]
    intervals = intervals_to_first(links, profile=profile, progress=progress)
    *_, end = links
    for control in links:
        if control.control:
            found = interval_between(control, end, profile=profile)
            intervals |= {against(end.name, control.name): found} if found else {}

    def write(folder: Path) -> None:
        if is_drawn(links):
            (folder / "curve.png").write_bytes(curve_png(links))

    return store.seal(
        KIND,
        profile=profile,
        key=key,
        write=write,
        parents={"model": last.digest} | {f"evaluation of {link.name}": _evaluation(link) for link in links},
        metrics={"intervals": intervals, **{link.name: dict(link.scores) for link in links}},
        packages=packages,
        replace=True,
    )


def _evaluation(link: Link) -> str:
    assert link.evaluation is not None
    return link.evaluation.digest


def _key(profile: Profile, *, store: Store, stages: int, controls: bool) -> str:
    """Key from what is stated alone, so that a repeated call needs no torch."""
    settings = profile.content()
    settings.pop("overrides", None)
    settings.pop("device", None)
    del settings["float_training"], settings["bit_plan"]
    settings["qat"]["stages"] = stages
    return fingerprint(
        {
            "kind": KIND,
            "profile": settings,
            "weights": stated_weights(profile, store=store),
            "data": stated_data(profile.data),
            **({"controls": True} if controls else {}),
        }
    )


def _would_do(profile: Profile, *, stages: int, controls: bool) -> list[str]:
    from pipelines.costs.forecast import forecast
    from pipelines.training.stages import stage_parts

    groups = stage_parts(stages, without=profile.model.empty_parts)
    quantization, distillation = profile.quantization, profile.distillation.schedule
    return [
        f"evaluate the float {profile.model.name}",
        f"calibrate to {quantization.label} on {profile.calibration.samples} samples of the train split, evaluate",
        *(
            f"stage {number}: quantize {' and '.join(group)} too, train {profile.qat.steps(group)} steps, evaluate"
            for number, group in enumerate(groups, start=1)
        ),
        *([f"distil from the float detector: {distillation.steps} steps, evaluate"] if distillation.steps else []),
        *(
            ["train float for all these steps, and QAT for those of distillation without a teacher, evaluate both"]
            if controls
            else []
        ),
        f"{profile.evaluation.bootstrap_resamples} paired resamples of scenes for each difference to float",
        *forecast(profile, stages=groups),
    ]
