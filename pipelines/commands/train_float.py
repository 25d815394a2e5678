"""train-float: the float detector trained from scratch on the train scenes, auxiliary heads dropped at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipelines.assembly.detector import Detector, build_detector
from pipelines.assembly.samples import load_split, notes_on_motion, with_more_seeds
from pipelines.assembly.strict_loading import load_strictly
from pipelines.assembly.weights import float_artifact, package_versions
from pipelines.lineage.chain import WEIGHTS
from pipelines.lineage.float_control import controls_of_stages, float_key
from pipelines.reporting.outcome import Outcome
from pipelines.store import processes
from pipelines.store.artifacts import Artifact, Store
from pipelines.training.run import Run, detection_loss, run_training, write_curve
from pipelines.training.stages import stage_parts
from profiles import Profile
from profiles.sections.schedule import PARTS
from qdbev.engine.moment import TrainResult

KIND = "float"


def run(
    profile: Profile,
    *,
    store: Store,
    further: bool = False,
    force: bool = False,
    dry_run: bool = False,
    progress: bool = True,
) -> Outcome:
    """Train, seal the averaged weights, and give the artifact.

    Args:
        profile: Its sections ``model``, ``data`` and ``float_training`` and its seed decide the result.
        store: Where the artifact goes; an equal one there is taken as it is.
        further: Train the profile's weights on, as its QAT and distillation do: their float control, an artifact for
            each stage.
        force: Train again even so.
        dry_run: Say what would be done.
        progress: Show bars.
    """
    wanted = [profile]
    if further:
        groups = stage_parts(profile.qat.stages, without=profile.model.empty_parts)
        wanted = controls_of_stages(profile, groups=groups)
    if not wanted:
        raise ValueError("the profile's stages and distillation have no steps, so there is nothing to train on for")
    if dry_run:
        origins = _origins(wanted, further=further)
        return Outcome(would_do=[_step(one, origin=origin) for one, origin in zip(wanted, origins, strict=True)])
    imported = further and profile.model.weights is None  # a first training without `start_from` starts from scratch
    made = float_artifact(profile, store=store) if imported else None
    for number, one in enumerate(wanted, start=1):
        if made is not None:
            training = one.float_training.model_copy(update={"start_from": made.digest})
            one = one.model_copy(update={"float_training": training})
        label = f"train-float {number}/{len(wanted)}" if len(wanted) > 1 else "train-float"
        made, message = _trained(one, store=store, label=label, force=force, progress=progress)
    assert made is not None
    return Outcome(made, metrics=dict(made.manifest.metrics), messages=[message])


def _origins(wanted: Sequence[Profile], *, further: bool) -> list[str]:
    """What each training starts from, in words."""
    first, *others = wanted
    unnamed = "the imported weights" if further else "scratch"
    return [first.float_training.start_from or unnamed, *("what that made" for _ in others)]


def _step(profile: Profile, *, origin: str) -> str:
    schedule = profile.float_training
    parts = "" if schedule.parts is None else f" ({', '.join(schedule.parts)})"
    size = schedule.batch_size
    return f"train {profile.model.name}{parts} from {origin}: {schedule.steps} steps of {size} samples"


def _trained(profile: Profile, *, store: Store, label: str, force: bool, progress: bool) -> tuple[Artifact, str]:
    """One training, sealed, and a sentence about it."""
    schedule = profile.float_training
    split = load_split(profile.data, name="train", progress=progress)
    split = with_more_seeds(split, data=profile.data, progress=progress)
    start = _start(profile, store=store)
    key = float_key(
        schedule,
        settings=profile.content(),
        start=start.digest if start else None,
        split=split.digest,
        processes=processes.count(),
    )
    if not force and (known := store.find(KIND, key=key)):
        return known, "already trained; --force trains again"
    torch.manual_seed(profile.seed)
    detector = build_detector(profile.model, auxiliary=schedule.auxiliary)
    if start is not None:
        load_start(detector, state=load_file(start.file(WEIGHTS)), origin=start.path.name)
    owned = detector.parts()
    others = [path for part in PARTS if part not in (schedule.parts or PARTS) for path in owned[part]]
    plan = Run(
        profile=profile,
        schedule=schedule,
        steps=schedule.steps,
        key=key,
        scratch=store.scratch(KIND, key=key),
        part_multipliers=dict.fromkeys(others, schedule.other_multiplier),
    )
    result = run_training(
        detector,
        loss=detection_loss(
            detector, profile=profile, single_frame_steps=round(schedule.steps * schedule.single_frame_share)
        ),
        split=split,
        plan=plan,
        label=label,
        progress=progress,
        freeze_batchnorm=schedule.freeze_batchnorm,
    )
    state = result.ema_state or detector.state_dict()
    weights = {name: value.contiguous() for name, value in state.items() if not name.startswith("auxiliary.")}

    def write(folder: Path) -> None:
        save_file(weights, folder / WEIGHTS)
        write_curve(folder, result=result)

    artifact = store.seal(
        KIND,
        profile=profile,
        key=key,
        write=write,
        parents={"start": start.digest} if start else {},
        data={
            "processes": processes.count(),
            "train": split.digest,
            "train_scenes": sum(len(each.scenes) for each in (split, *split.further)),
            "train_samples": sum(len(each.samples) for each in (split, *split.further)),
        },
        metrics=_metrics(result),
        packages=package_versions(),
        notes=notes_on_motion(split),
        seconds={"training": result.seconds},
        replace=force,
    )
    return artifact, f"trained in {result.seconds / 60:.1f} minutes"


def load_start(detector: Detector, *, state: Mapping[str, Tensor], origin: str) -> None:
    """Load all weights but the loss's own: the auxiliary heads and ``code_weights`` stay as the profile has them."""
    own = detector.state_dict()
    kept = {
        name: value for name, value in own.items() if name.startswith("auxiliary.") or name.endswith("code_weights")
    }
    load_strictly(detector, state={**state, **kept}, origin=origin)


def _start(profile: Profile, *, store: Store) -> Artifact | None:
    """The artifact the profile's training starts from, in this store."""
    source = profile.float_training.start_from
    if source is None:
        return None
    model = profile.model.model_copy(update={"weights": source})
    return store.adopt(float_artifact(profile.model_copy(update={"model": model}), store=store))


def _metrics(result: TrainResult) -> dict[str, Any]:
    last = result.curve[-1] if result.curve else {}
    return {"steps": result.steps, "skipped_steps": len(result.skipped), "final_loss": last.get("loss")}
