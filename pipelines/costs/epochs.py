"""Epochs into steps: how many samples a split has, told without reading them, and the steps that go through them."""

from __future__ import annotations

import math

from pipelines.store import processes
from pipelines.store.integrity import reading_data
from pipelines.store.locations import SYNTHETIC
from profiles import Profile
from profiles.home import expanded
from profiles.sections.data import DataProfile
from profiles.sections.schedule import Optimisation
from qdbev.data.nuscenes.tables import sample_counts, split_scenes

_MOST_STEPS = 10**9
_NUSCENES = {  # key frames of whole splits, as nuscenes-devkit counts them
    "v1.0-trainval": {"train": 28_130, "val": 6_019},
    "v1.0-mini": {"train": 323, "val": 81},
}


def epoch_words(profile: Profile, *, epochs: float) -> list[str]:
    """Overrides that make each stage of QAT, and distillation, so many epochs long.

    Args:
        profile: With its data and batch sizes.
        epochs: Passes over the training samples, of all processes together.

    Raises:
        ValueError: The data set is damaged.
    """
    with reading_data():
        samples = sample_count(profile.data, split="train")
    words = [f"qat.steps_per_stage={_steps(epochs, schedule=profile.qat, samples=samples)}"]
    schedule = profile.distillation.schedule
    if schedule.steps:
        words.append(f"distillation.schedule.steps={_steps(epochs, schedule=schedule, samples=samples)}")
    return words


def epochs_of(steps: int, *, schedule: Optimisation, samples: int) -> float:
    """Epochs that steps of one process make."""
    return steps * schedule.batch_size * schedule.accumulation / samples


def sample_count(data: DataProfile, *, split: str) -> int:
    """Key frames of a split: by the profile for scenes that would be made, else by the tables, or as published."""
    limit = data.train_scenes if split == "train" else data.val_scenes
    if data.source == SYNTHETIC:
        return len(split_scenes(data.version)[split][:limit]) * data.key_frames
    if is_absent(data) and limit is None and data.version in _NUSCENES:
        return _NUSCENES[data.version][split]
    root = expanded(data.source)
    counts = sample_counts(root, version=data.version)
    listed = [counts[name] for name in split_scenes(data.version, root=root).get(split, ()) if name in counts]
    return sum(listed[:limit])


def is_absent(data: DataProfile) -> bool:
    """Whether a data set of one's own is not there yet."""
    return data.source != SYNTHETIC and not (expanded(data.source) / data.version).is_dir()


def _steps(epochs: float, *, schedule: Optimisation, samples: int) -> int:
    per_step = schedule.batch_size * schedule.accumulation * processes.count()
    steps = epochs * samples / per_step
    if not steps <= _MOST_STEPS:
        raise ValueError(f"--epochs is {epochs:g}, which are {steps:g} steps; a training has at most {_MOST_STEPS:g}")
    return math.ceil(round(steps, 6))
