"""What would stop a command late, asked before data is made or read: device, weights, samples, and room on the disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pipelines.assembly.job import Job
from pipelines.assembly.samples import present_scenes, scene_bytes, scenes_to_make
from pipelines.assembly.weights import refuse_missing_weights
from pipelines.costs.epochs import sample_count
from pipelines.store.integrity import UnusableInput, reading_data
from pipelines.store.locations import SYNTHETIC, synthetic_root
from profiles import Profile
from profiles.home import expanded
from profiles.sections.data import DataProfile
from profiles.wording import counted
from qdbev.engine.accelerating import refuse_absent

_BOX_BYTES = 90
"""Of a detection in a sealed result, compressed."""


class Need(NamedTuple):
    """What is taken of the disk."""

    folder: Path
    bytes: int
    what: str
    """What for, in words."""


def preflight(
    job: Job,
    *,
    dry_run: bool,
    weights: bool = True,
    calibrates: bool = True,
    trains: bool = False,
    evaluations: int = 0,
) -> list[str]:
    """Refuse what cannot work.

    Args:
        job: What is wanted.
        dry_run: Nothing is done; what somebody can still bring (weights, room on the disk) is said instead of refused.
        weights: Whether the float weights of the profile are needed.
        calibrates: Whether training samples set ranges.
        trains: Whether trackers get the curve of a training.
        evaluations: How many results will be sealed at most.

    Returns:
        Sentences for a dry run: what is missing, and what is taken of the disk. None otherwise.

    Raises:
        ProfileError: The device is not here.
        MissingArtifact: There are no float weights.
        UnusableInput: The data hold no scene of a split, or the disk has too little room.
        ValueError: Calibration wants more samples than training has, or a tracker is not installed.
    """
    _ = job.device
    if trains:
        refuse_absent(job.stated.log_with)
    _refuse_empty(job.stated.data, splits=_splits(job.stated, calibrates=calibrates, evaluations=evaluations))
    splits = _made(job.stated, trains=calibrates or trains, scores=calibrates or bool(evaluations))
    needs = list(_needs(job, splits=splits, evaluations=evaluations))
    checks = [*([lambda: refuse_missing_weights(job)] if weights else []), lambda: _refuse_full(needs)]
    missing = []
    for check in checks:
        try:
            check()
        except UnusableInput as error:
            if not dry_run:
                raise
            missing.append(f"not ready: {error}")
    if calibrates:
        _refuse_too_few(job.stated)
    return [*missing, *_disk(needs)] if dry_run else []


def _splits(profile: Profile, *, calibrates: bool, evaluations: int) -> list[str]:
    scored = profile.evaluation.split.removeprefix("mini_")
    return [*(["train"] if calibrates else []), *([scored] if evaluations else [])]


def _made(profile: Profile, *, trains: bool, scores: bool) -> list[str]:
    """The splits whose scenes are made where they are missing; calibration asks for what is scored, to leave it out."""
    scored = "train" if profile.evaluation.split.endswith("train") else "val"
    return list(dict.fromkeys([*(["train"] if trains else []), *([scored] if scores else [])]))


def _refuse_empty(data: DataProfile, *, splits: Sequence[str]) -> None:
    """Refuse data of one's own that is there and holds no scene of a split."""
    root = expanded(data.source)
    if data.source != SYNTHETIC and (root / data.version).is_dir():
        with reading_data():
            for split in splits:
                present_scenes(root, version=data.version, name=split)


def _refuse_too_few(profile: Profile) -> None:
    """Refuse calibration that wants more samples than training has."""
    there, wanted = _samples(profile.data, split="train"), profile.calibration.samples
    if there and wanted > there:
        raise ValueError(f"calibration.samples is {wanted}, but {there} training samples are there; ask for fewer")


def _samples(data: DataProfile, *, split: str) -> int:
    with reading_data():
        return sample_count(data, split=split)


def _refuse_full(needs: Sequence[Need]) -> None:
    for folder, needed, what in needs:
        free = shutil.disk_usage(_existing(folder)).free
        if needed > free:
            raise UnusableInput(
                f"{what} take about {_size(needed)} in {folder}, where {_size(free)} are free: make room, or choose "
                "another folder by --store and QDBEV_CACHE"
            )


def _disk(needs: Sequence[Need]) -> list[str]:
    return [f"disk: about {_size(needed)} for {what}, in {folder}" for folder, needed, what in needs]


def _needs(job: Job, *, splits: Sequence[str], evaluations: int) -> Iterator[Need]:
    profile = job.stated
    data = profile.data
    if data.source == SYNTHETIC and (scenes := scenes_to_make(data, splits=splits)):
        yield Need(synthetic_root(data), round(scenes * scene_bytes(data)), counted(scenes, "synthetic scene"))
    if evaluations:
        boxes = _samples(profile.data, split="val") * profile.evaluation.max_boxes
        yield Need(
            job.store.root,
            evaluations * boxes * _BOX_BYTES,
            "the result of an evaluation" if evaluations == 1 else f"results of {evaluations} evaluations",
        )


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
