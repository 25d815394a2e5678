"""The stages of progressive QAT (QD-BEV, Algorithm 1, phase 1), and the key that makes any training repeatable."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import Tensor

from pipelines.assembly.quantized import Quantized, learn_as, load_quantized, quantized_cost, write_quantized
from pipelines.assembly.samples import Split, load_split, notes_on_motion
from pipelines.calibration.calibrated import calibrated, observe, run_samples
from pipelines.calibration.methods import calibration_row
from pipelines.calibration.rounding import compensate
from pipelines.lineage.bit_plan import with_plan_found
from pipelines.store import processes
from pipelines.store.artifacts import Artifact, Store
from pipelines.training.run import Loss, Run, detection_loss, run_training, write_curve
from profiles import Profile, fingerprint
from profiles.sections.schedule import PARTS, Optimisation, ProgressiveSchedule
from qdbev.data.queues.calibration import calibration_samples
from qdbev.engine import TrainResult
from qdbev.quantization import LiveNorms, hold_ranges, settle_ranges, thaw_norms

KIND = "qat"
Sealed = Callable[[Artifact], object]


def stage_parts(stages: int, *, without: Sequence[str] = ()) -> list[tuple[str, ...]]:
    """The parts each stage adds: four stages add one each, one stage adds all (standard QAT).

    Args:
        stages: 1 to 4.
        without: Parts that the detector does not have; a stage of none but these falls away.

    >>> stage_parts(4), stage_parts(1)
    ([('backbone',), ('neck',), ('encoder',), ('decoder',)], [('backbone', 'neck', 'encoder', 'decoder')])
    >>> stage_parts(2)
    [('backbone', 'neck'), ('encoder', 'decoder')]
    >>> stage_parts(4, without=["encoder"])
    [('backbone',), ('neck',), ('decoder',)]
    """
    if not 1 <= stages <= len(PARTS):
        raise ValueError(f"stages is {stages}, expected 1 to {len(PARTS)}")
    edges = [round(stage * len(PARTS) / stages) for stage in range(stages + 1)]
    groups = [tuple(part for part in PARTS[start:stop] if part not in without) for start, stop in pairwise(edges)]
    return [group for group in groups if group]


def trained_stages(
    profile: Profile,
    *,
    store: Store,
    stages: int | None = None,
    force: bool = False,
    progress: bool = False,
    on_stage: Sealed | None = None,
) -> tuple[Artifact, list[str]]:
    """All stages of a profile, each sealed; what is missing before them is made first.

    Args:
        profile: Its section ``qat`` says how.
        store: Where artifacts are found and go.
        stages: 1 to 4, in place of the profile's.
        force: Train again even if sealed.
        progress: Show bars.
        on_stage: Called with the calibration and each stage as it is sealed or found.

    Returns:
        The last stage, and a sentence about each.
    """
    groups = stage_parts(stages or profile.qat.stages, without=profile.model.empty_parts)
    _refuse_delay_without_end(profile.qat, groups=groups)
    profile = with_plan_found(profile, store=store)
    artifact, message = calibrated(profile, store=store, progress=progress)
    messages = [message, *left_behind(profile)]
    if on_stage is not None:
        on_stage(artifact)
    for number in range(1, len(groups) + 1):
        artifact, message = run_stage(
            profile, store=store, parent=artifact, number=number, groups=groups, force=force, progress=progress
        )
        messages.append(message)
        if on_stage is not None:
            on_stage(artifact)
    return artifact, messages


def left_behind(profile: Profile) -> list[str]:
    """A sentence where the stages choose anew what calibration has learned."""
    section, method = profile.quantization, profile.calibration.method
    anew = section.training_observer is not None or section.training_rounding == "compensated"
    if not anew or not calibration_row(method).rounds:
        return []
    keep = "--set quantization.training_observer=null --set quantization.training_rounding=nearest"
    return [
        f"each stage chooses ranges and roundings anew, so those of {method} are not trained from: {keep} keeps them"
    ]


def run_stage(
    profile: Profile,
    *,
    store: Store,
    parent: Artifact,
    number: int,
    groups: Sequence[tuple[str, ...]],
    force: bool = False,
    progress: bool = False,
) -> tuple[Artifact, str]:
    """One stage: the parts of all groups up to ``number`` on, trained for the steps of this group's parts.

    Returns:
        The sealed stage, and a sentence about it.
    """
    parts = tuple(part for group in groups[:number] for part in group)
    steps, schedule = profile.qat.steps(groups[number - 1]), profile.qat.of_stage(groups[number - 1])
    split = load_split(profile.data, name="train", progress=progress)
    place = {"stage": number, "stages": len(groups), "parts": parts}
    key = training_key(KIND, parent=parent, profile=profile, schedule=schedule, steps=steps, split=split, extra=place)
    label = f"stage {number}/{len(groups)} (+{'+'.join(groups[number - 1])})"
    if not force and (known := store.find(KIND, key=key)):
        return known, f"{label}: already trained"
    quantized = _starting(parent, profile=profile, parts=parts, added=groups[number - 1], split=split)
    norms = None
    if schedule.batch_norm == "live":
        trained = groups[number - 1] if schedule.other_multiplier == 0 else PARTS
        norms = _with_live_norms(quantized, profile=profile, parts=trained, split=split)
    owned = quantized.detector.parts()
    others = [path for part in PARTS if part not in groups[number - 1] for path in owned[part]]
    plan = Run(
        profile=profile,
        schedule=schedule,
        steps=steps,
        key=key,
        scratch=store.scratch(KIND, key=key),
        part_multipliers=dict.fromkeys(others, schedule.other_multiplier),
        range_multiplier=schedule.range_multiplier,
    )
    result = run_training(
        quantized.detector,
        loss=by_step(
            detection_loss(quantized.detector, profile=profile),
            quantized=quantized,
            added=groups[number - 1],
            schedule=schedule,
        ),
        split=split,
        plan=plan,
        label=f"qat {label}",
        progress=progress,
        freeze_batchnorm=True,
    )
    settle_trained(quantized.switched(parts), result=result)
    if norms is not None:
        norms.fold()
    trainable = int(str(parent.manifest.metrics["trainable"]))
    cost = quantized_cost(quantized, profile=profile, split=split, trainable=trainable)

    def write(folder: Path) -> None:
        write_quantized(folder, quantized=quantized, profile=profile)
        write_curve(folder, result=result)

    artifact = store.seal(
        KIND,
        profile=profile,
        key=key,
        write=write,
        parents={"start": parent.digest},
        data={"train": split.digest, "stage": number, "stages": len(groups), "parts": list(parts)},
        metrics=cost | {"trainable": trainable, "steps": result.steps, "skipped_steps": len(result.skipped)},
        packages=dict(parent.manifest.packages),
        notes=notes_on_motion(split),
        seconds={"training": result.seconds},
        replace=force,
    )
    return artifact, f"{label}: {steps} steps in {result.seconds:.0f} s"


def _starting(
    parent: Artifact, *, profile: Profile, parts: Sequence[str], added: Sequence[str], split: Split
) -> Quantized:
    """The detector of the stage before, the parts of this one on; ranges and weights of the added ones as wanted."""
    quantized = load_quantized(parent, profile=profile, latent=True)
    quantized.switched([part for part in parts if part not in added])
    section, detector = profile.quantization, quantized.detector
    samples = calibration_samples(split.samples, count=profile.calibration.samples, seed=profile.calibration.seed)
    if observer := section.training_observer:
        unsigned = section.training_sign == "auto"
        observe(
            quantized, split=split, samples=samples, profile=profile, parts=added, observer=observer, unsigned=unsigned
        )
    if section.training_rounding == "compensated":
        run = partial(run_samples, detector, split=split, samples=samples, profile=profile)
        compensate(detector, run=run, parts=added)
    return learning(quantized.switched(parts), profile=profile)


def learning(quantized: Quantized, *, profile: Profile) -> Quantized:
    """The same detector, the ranges that the profile wants learned being parameters now."""
    learn_as(profile.quantization, quantized)
    return quantized


def _with_live_norms(quantized: Quantized, *, profile: Profile, parts: Sequence[str], split: Split) -> LiveNorms:
    """Batch norms where calibration folded some, in these parts; measured on the calibration samples."""
    detector, calibration = quantized.detector, profile.calibration
    samples = calibration_samples(split.samples, count=calibration.samples, seed=calibration.seed)
    owners = [path for part in parts for path in detector.parts()[part]]
    folded = [conv for conv, _ in quantized.folding.pairs if any(f"{conv}.".startswith(f"{path}.") for path in owners)]
    return thaw_norms(detector, folded, partial(run_samples, detector, split=split, samples=samples, profile=profile))


def by_step(loss: Loss, *, quantized: Quantized, added: Sequence[str], schedule: ProgressiveSchedule) -> Loss:
    """The loss of a stage whose quantizers depend on the step: those added wait, and ranges stop.

    What is on is a function of the step alone, in every process, so a run that was stopped goes on as it would have.

    Args:
        loss: Of the detector as it is switched.
        quantized: The detector, its learned ranges parameters already.
        added: The parts of this stage.
        schedule: Its ``quantizer_delay`` and ``freeze_ranges_after``.
    """
    delay, last = schedule.quantizer_delay, schedule.freeze_ranges_after
    if not delay and last is None:
        return loss
    waiting = tuple(part for part in quantized.parts if part not in added)

    def stepped(batch: Any, step: int) -> tuple[Tensor, Mapping[str, float | Tensor]]:
        quantized.switched(waiting if step < delay else quantized.parts)
        hold_ranges(quantized.detector, held=last is not None and step >= last)
        return loss(batch, step)

    return stepped


def _refuse_delay_without_end(schedule: ProgressiveSchedule, *, groups: Sequence[Sequence[str]]) -> None:
    shortest = min(schedule.steps(group) for group in groups)
    if schedule.quantizer_delay and schedule.quantizer_delay >= shortest:
        raise ValueError(
            f"qat.quantizer_delay is {schedule.quantizer_delay} and the shortest stage has {shortest} steps: what it "
            "adds would never train quantized; choose fewer"
        )


def settle_trained(quantized: Quantized, *, result: TrainResult) -> None:
    """Leave the averaged weights, where an average was kept, and fixed ranges."""
    if result.ema_state is not None:
        quantized.detector.load_state_dict(result.ema_state)
    settle_ranges(quantized.detector)


def training_key(
    kind: str,
    *,
    parent: Artifact,
    profile: Profile,
    schedule: Optimisation,
    steps: int,
    split: Split,
    extra: Mapping[str, Any],
) -> str:
    """Key of a training stage: its parent, its schedule, its data and its seed decide the result."""
    return fingerprint(
        {
            "kind": kind,
            "parent": parent.digest,
            "model": profile.model.content() | {"weights": None},
            "schedule": {name: value for name, value in schedule.content().items() if name not in _NOT_A_RESULT},
            "steps": steps,
            "queue": [profile.data.queue_length, profile.data.drop_one_frame],
            "quantization": profile.quantization.content(),
            "calibration": profile.calibration.content(),
            "data": split.digest,
            "seed": profile.seed,
            **processes.in_key(),
            **({"range of the images": "frozen"} if steps and profile.quantization.learns_activations else {}),
            **extra,
        }
    )


# what these lead to is in `steps`, `parts` and the learning rate
_NOT_A_RESULT = ("stages", "steps_per_stage", "stage_multipliers", "evaluate_each_stage")
