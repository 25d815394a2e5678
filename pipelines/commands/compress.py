"""compress: the whole of Algorithm 1; calibrate, stage after stage, distil, score each, and say what differs."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.assembly.job import Job
from pipelines.lineage.chain import Link, chain_of, link_name, sealed_chain
from pipelines.lineage.keys import compression_key
from pipelines.lineage.kinds import COMPRESSION, CURVE_PICTURE, DETECTIONS_PICTURE
from pipelines.lineage.standing import verify_standing
from pipelines.lineage.stated import stated_data, stated_weights
from pipelines.reporting.chain_tables import against, chain_metrics, chain_tables, is_drawn
from pipelines.reporting.outcome import Outcome
from pipelines.reporting.steps import Steps
from pipelines.reporting.training_curve import curve_png
from pipelines.store.artifacts import Artifact, MissingArtifact
from pipelines.store.events import where_to_look
from pipelines.store.making import Content, made
from profiles import Profile
from profiles.detectors.detector import FEATURES
from profiles.sections.schedule import PARTS, stage_parts
from profiles.wording import counted

_LOG = logging.getLogger(__name__)
_NOTHING_TRAINED = "no controls: no step is trained, so the float detector itself is the float control"


def run(job: Job, *, controls: bool = False, own_bits: bool = False, dry_run: bool = False) -> Outcome:
    """Run every stage that is not sealed yet; a killed run goes on where it was.

    Args:
        job: What is wanted.
        controls: Also train float and QAT for as many steps, without bits and without a teacher, and compare.
        own_bits: Choose bits for every layer first, at the size and operations of the profile, and train nothing.
        dry_run: Say what would be done.
    """
    if own_bits and dry_run:
        return _own_bits_dry(job, controls=controls)
    said = _preflight(job, controls=controls, dry_run=dry_run)
    if own_bits:
        from pipelines.bit_planning.own_bits import with_own_bits

        job = with_own_bits(job)
    stated, remarks = without_distillation(job.stated)
    if controls and not _steps(stated):
        controls, remarks = False, [*remarks, _NOTHING_TRAINED]
    if dry_run:
        messages = [*said, _hours(job.of(stated), controls=controls)]
        return Outcome(would_do=[*_would_do(stated, controls=controls), *remarks], messages=messages)
    links, sealed, message = _compressed(job.of(stated), controls=controls)
    intervals: Any = sealed.manifest.metrics.get("intervals", {})
    return Outcome(
        sealed,
        tables=chain_tables(links, intervals=intervals),
        metrics=chain_metrics(links, intervals=intervals),
        messages=[*remarks, *where_to_look(link.model.path for link in links), message],
    )


def _own_bits_dry(job: Job, *, controls: bool) -> Outcome:
    """What would be done with bits of their own, before the plan that says them is there."""
    from pipelines.bit_planning.losses import choosing_work
    from pipelines.bit_planning.own_bits import untrained
    from pipelines.costs.hours import hours, scene_samples

    stated = job.stated
    first = [
        f"evaluate the float {stated.model.name} and calibrate it to {stated.quantization.label}: what may be spent",
        f"choose bits for every layer within that, from {counted(stated.bit_plan.samples, 'training sample')}",
    ]
    frames = choosing_work(stated, scene_samples=scene_samples(stated, scenes=stated.bit_plan.scenes))
    took = hours(job, frames=frames, what="measuring all choices, besides")
    then = run(job.of(untrained(stated, plan="PLAN")), controls=controls, dry_run=True)
    return Outcome(would_do=[*first, *then.would_do], messages=list(dict.fromkeys([*then.messages, took])))


def _preflight(job: Job, *, controls: bool, dry_run: bool) -> list[str]:
    """What would stop the chain late, and what it takes of the disk: a result of float, PTQ, each stage, the ends."""
    from pipelines.costs.preflight import preflight  # torch and mmdet3d take seconds to import

    profile = job.stated
    distils = bool(profile.distillation.schedule.steps)
    stages = profile.qat.stages if profile.qat.evaluate_each_stage else 1
    evaluations = 2 + stages + distils + (1 + distils) * controls
    return preflight(job, dry_run=dry_run, trains=bool(_steps(profile)), evaluations=evaluations)


def _compressed(job: Job, *, controls: bool) -> tuple[list[Link], Artifact, str]:
    """The chain, what it was sealed as, and a sentence; where a stage was deleted, it is made again."""
    key = compression_key(
        job.profile,
        controls=controls,
        weights=stated_weights(job.profile, store=job.store),
        data=stated_data(job.profile.data),
    )
    sealed = None if job.force else job.store.find(COMPRESSION, key=key)
    if sealed is not None:
        with contextlib.suppress(MissingArtifact):
            verify_standing([sealed], store=job.store)
            return sealed_chain(sealed, store=job.store), sealed, "already compressed; --force does it again"
    make = partial(_compress, job, controls=controls)
    artifact, message = made(replace(job, force=True), COMPRESSION, key=key, make=make)
    return sealed_chain(artifact, store=job.store), artifact, message


def without_distillation(profile: Profile) -> tuple[Profile, list[str]]:
    """The profile without its distillation where the detector has no taps, and then a sentence that says so.

    Args:
        profile: Any; one whose detector has taps comes back as it is.

    Raises:
        ValueError: The detector has taps, but not on all that its distillation compares.
    """
    section = profile.distillation
    if not section.schedule.steps or profile.model.tapped == FEATURES:
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


def _compress(job: Job, *, controls: bool) -> Content:
    """Make and score every model of the chain, and compare them."""
    from pipelines.assembly.weights import float_artifact  # torch and mmdet3d take seconds to import
    from pipelines.costs.work import chain_work
    from pipelines.scoring.detections_picture import detections_jpg
    from pipelines.scoring.evaluation import evaluate_artifact
    from pipelines.training.teacher import refuse_unkeepable

    if job.profile.distillation.schedule.steps:
        refuse_unkeepable(job.profile)
    evaluations: list[Artifact] = []
    job.split("train")  # scenes that are made now do not count as time of a step
    steps = Steps(chain_work(job.profile, scored=len(job.evaluation_split().samples), controls=controls))

    def score(model: Artifact) -> None:
        name = link_name(model, control=bool(evaluations))
        evaluations.append(evaluate_artifact(job, model=model))
        _LOG.info("%s", steps.done(name, nds=float(str(evaluations[-1].manifest.metrics["NDS"]))))

    score(float_artifact(job))
    last, held = _trained_chain(job, controls=controls, score=score)
    chain = chain_of(last, store=job.store, controls=held, evaluations=evaluations)
    links = [link for link in chain if link.evaluation is not None]
    intervals = _intervals(links, job=job)
    detections = detections_jpg(links[0], links[-1], split=job.evaluation_split())

    def write(folder: Path) -> None:
        if is_drawn(links):
            (folder / CURVE_PICTURE).write_bytes(curve_png(links, intervals=intervals))
        if detections is not None:
            (folder / DETECTIONS_PICTURE).write_bytes(detections)

    return Content(
        write,
        parents={"model": last.digest} | {f"evaluation of {link.name}": _evaluation(link) for link in links},
        metrics={"intervals": intervals, **{link.name: dict(link.scores) for link in links}},
        packages=dict(evaluations[0].manifest.packages),
        message="compressed",
    )


def _hours(job: Job, *, controls: bool) -> str:
    from pipelines.costs.hours import hours, scored_samples
    from pipelines.costs.work import chain_work

    return hours(job, frames=sum(chain_work(job.stated, scored=scored_samples(job.stated), controls=controls)))


def _trained_chain(job: Job, *, controls: bool, score: Callable[[Artifact], None]) -> tuple[Artifact, list[Artifact]]:
    """Calibrate, train the stages, distil, train the controls, score each; the end of the chain, and the controls."""
    from pipelines.calibration.calibrated import calibrated
    from pipelines.training.distillation import distil
    from pipelines.training.float_training import trained_on
    from pipelines.training.stages import trained_stages

    calibration = calibrated(job).artifact
    every_stage, distils = job.profile.qat.evaluate_each_stage, bool(job.profile.distillation.schedule.steps)
    artifact, _ = trained_stages(job, on_stage=score if every_stage else None)
    if not every_stage:
        score(calibration)
        score(artifact)
    last, held = artifact, []
    if distils:
        last = distil(job, parent=artifact).artifact
        score(last)
    if controls:
        held.append(trained_on(job).artifact)
    if controls and distils:
        held.append(distil(job, parent=artifact, distilled=False).artifact)
    for model in held:
        score(model)
    return last, held


def _intervals(links: Sequence[Link], *, job: Job) -> dict[str, dict[str, float]]:
    """Intervals of every model's difference to float, and of the end's to each control."""
    from pipelines.scoring.comparison import interval_between, intervals_to_first

    intervals = intervals_to_first(links, job=job)
    *_, end = links
    for control in links:
        if control.control and (between := interval_between(control, end, job=job)):
            intervals[against(end.name, control.name)] = between
    return intervals


def _evaluation(link: Link) -> str:
    assert link.evaluation is not None
    return link.evaluation.digest


def _would_do(profile: Profile, *, controls: bool) -> list[str]:
    """What would be done, a sentence a step."""
    from pipelines.costs.forecast import forecast

    groups = stage_parts(profile.qat.stages, without=profile.model.empty_parts)
    bits, distillation = profile.quantization.label, profile.distillation.schedule
    calibrating = counted(profile.calibration.samples, "sample")
    return [
        f"evaluate the float {profile.model.name}",
        f"calibrate to {bits} on {calibrating} of the train split, evaluate",
        *(
            f"stage {number}: quantize {' and '.join(group)} too, "
            f"train {counted(profile.qat.steps(group), 'step')}, evaluate"
            for number, group in enumerate(groups, start=1)
        ),
        *(
            [f"distil from the float detector: {counted(distillation.steps, 'step')}, evaluate"]
            if distillation.steps
            else []
        ),
        *(
            ["train float for all these steps, and QAT for those of distillation without a teacher, evaluate both"]
            if controls
            else []
        ),
        f"{counted(profile.evaluation.bootstrap_resamples, 'paired resample')} of scenes for each difference to float",
        *forecast(profile, stages=groups),
    ]
