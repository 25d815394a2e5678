"""qat-progressive: Algorithm 1, phase 1 of QD-BEV; part after part is quantized, each stage trained from the last."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipelines.outcome import dry, finished
from pipelines.quantized import PARTS, load_quantized, quantized_cost, write_quantized
from pipelines.samples import load_split
from pipelines.stage import newest, training_key
from pipelines.store import Artifact, Store
from pipelines.training import Run, detection_loss, run_training, write_curve
from profiles import Profile

KIND = "qat"


def run(
    profile: Profile,
    *,
    store: Store,
    stages: int | None = None,
    force: bool = False,
    dry_run: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Train all stages and seal each.

    Args:
        profile: Its section ``qat`` says how; the calibrated detector of the same profile is where it starts.
        store: Where artifacts are found and go.
        stages: 1 to 4, in place of the profile's.
        force: Train again even if sealed.
        dry_run: Say what would be done.
        progress: Show bars.

    Raises:
        MissingArtifact: The detector is not calibrated yet.
    """
    groups = stage_parts(stages or profile.qat.stages)
    if dry_run:
        return dry([_sentence(profile, number=number, groups=groups) for number in range(1, len(groups) + 1)])
    artifact = newest("calibration", profile=profile, store=store, before="calibrate")
    messages = []
    for number in range(1, len(groups) + 1):
        artifact, message = run_stage(
            profile, store=store, parent=artifact, number=number, groups=groups, force=force, progress=progress
        )
        messages.append(message)
    return finished(artifact, metrics=dict(artifact.manifest.metrics), messages=messages)


def stage_parts(stages: int) -> list[tuple[str, ...]]:
    """The parts each stage adds: four stages add one each, one stage adds all (standard QAT).

    >>> stage_parts(4), stage_parts(1)
    ([('backbone',), ('neck',), ('encoder',), ('decoder',)], [('backbone', 'neck', 'encoder', 'decoder')])
    >>> stage_parts(2)
    [('backbone', 'neck'), ('encoder', 'decoder')]
    """
    if not 1 <= stages <= len(PARTS):
        raise ValueError(f"stages is {stages}, expected 1 to {len(PARTS)}")
    edges = [round(stage * len(PARTS) / stages) for stage in range(stages + 1)]
    return [PARTS[start:stop] for start, stop in pairwise(edges)]


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
    steps = profile.qat.steps_per_stage * len(groups[number - 1])
    split = load_split(profile.data, name="train", progress=progress)
    key = training_key(
        KIND, parent=parent, profile=profile, schedule=profile.qat, steps=steps, split=split, extra={"parts": parts}
    )
    label = f"stage {number}/{len(groups)} (+{'+'.join(groups[number - 1])})"
    if (known := store.find(KIND, key=key)) and not force:
        return known, f"{label}: already trained"
    quantized = load_quantized(parent, profile=profile, latent=True).switched(parts)
    plan = Run(profile=profile, schedule=profile.qat, steps=steps, key=key, scratch=store.scratch(KIND, key=key))
    result = run_training(
        quantized.detector,
        loss=detection_loss(quantized.detector, profile=profile),
        split=split,
        plan=plan,
        label=f"qat {label}",
        progress=progress,
        freeze_batchnorm=True,
    )
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
        seconds={"training": result.seconds},
        replace=force,
    )
    return artifact, f"{label}: {steps} steps in {result.seconds:.0f} s"


def _sentence(profile: Profile, *, number: int, groups: Sequence[tuple[str, ...]]) -> str:
    parts, steps = groups[number - 1], profile.qat.steps_per_stage * len(groups[number - 1])
    return f"stage {number}: quantize {' and '.join(parts)} too, train {steps} steps"
