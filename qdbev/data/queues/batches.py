"""Batches of a temporal data set: training batches that are a pure function of (seed, step), streams of whole scenes.

Training: global slot g = step * batch_size * world_size + place walks through an endless chain of epoch permutations;
permutation and augmentation of slot g come from the seed alone. So batch t is the same whether a run starts at 0 or
at t, with however many workers, and on however many ranks that share the same global batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from qdbev.data.nuscenes.records import Sample
from qdbev.data.queues.temporal import Item

Batch = dict[str, Any]
_ORDER, _AUGMENT = 0, 1  # the two uses of a seed


class Frames(Protocol):
    """Key frames as items of a data set, and how a batch of them is sent from a process that loads."""

    samples: list[Sample]

    def __len__(self) -> int: ...

    def arrays(self, index: int, *, generator: np.random.Generator) -> Any:
        """One item as it is sent; every random choice in it follows from ``generator``."""

    @staticmethod
    def packed(items: list[Any]) -> Any:
        """What a loading process sends of some items."""

    @staticmethod
    def batch(sent: Any) -> Batch:
        """The batch, as detectors take it, of what was sent."""


class Slot(NamedTuple):
    """One place of a batch: the item's index, and the seed words of its augmentation (None: evaluation)."""

    item: int
    seed: tuple[int, ...] | None


def collate(items: Sequence[Item]) -> Batch:
    """{"inputs": {"img": (B, T, N, 3, H, W)}, "data_samples": [B]} of B items of equal shape."""
    return {
        "inputs": {"img": torch.stack([item["inputs"]["img"] for item in items])},
        "data_samples": [item["data_samples"] for item in items],
    }


def training_batches(
    dataset: Frames,
    *,
    batch_size: int,
    seed: int,
    start_step: int,
    steps: int,
    workers: int,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Batch]:
    """Batches of the steps ``start_step`` .. ``steps`` - 1 for one rank.

    Args:
        dataset: A training data set.
        batch_size: Items per rank and step.
        seed: Decides order and augmentation.
        start_step: First step to make; a resumed run gives the number of steps it has done.
        steps: Number of steps of the whole run.
        workers: Processes that load; 0 loads here.
        rank: Number of this process; it takes items rank * batch_size and on of each global batch.
        world_size: Number of processes that share a global batch.

    Raises:
        ValueError: an empty data set, or a rank outside the world.
    """
    if len(dataset) == 0 or batch_size < 1:
        raise ValueError(f"training needs samples and a positive batch size, got {len(dataset)} and {batch_size}.")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must be in 0..{world_size - 1}, got {rank}.")
    order = TrainingOrder(len(dataset), seed=seed)
    batches = [
        [
            order.slot(step, place=rank * batch_size + place, global_batch=batch_size * world_size)
            for place in range(batch_size)
        ]
        for step in range(start_step, steps)
    ]
    return load_slots(dataset, batches=batches, workers=workers)


def frames_in(batch: Batch) -> int:
    """How many key frames a batch holds; one may be several samples, one per camera."""
    return len({sample.metainfo.get("token", place) for place, sample in enumerate(batch["data_samples"])})


class TrainingOrder:
    """The endless chain of epoch permutations of ``count`` items, and the seed of every slot."""

    def __init__(self, count: int, *, seed: int) -> None:
        self.count = count
        self.seed = seed
        self._epoch = -1
        self._permutation = np.empty(0, dtype=np.int64)

    def slot(self, step: int, *, place: int, global_batch: int) -> Slot:
        """The slot ``place`` of the global batch ``step``."""
        epoch, position = divmod(step * global_batch + place, self.count)
        if epoch != self._epoch:
            self._permutation = np.random.default_rng([self.seed, _ORDER, epoch]).permutation(self.count)
            self._epoch = epoch
        return Slot(int(self._permutation[position]), (self.seed, _AUGMENT, step * global_batch + place))


def streaming_batches(dataset: Frames, *, streams: int, workers: int, done: int = 0) -> Iterator[Batch]:
    """Frames of whole scenes in the order of time, up to ``streams`` scenes side by side.

    Scenes run in groups: batch k of a group holds frame k of each of its scenes that is that long, in a fixed order;
    so every scene starts with its first frame, is complete and is never split. The longest scenes share a group.
    Follow the state of a scene by its name, not by its place in the batch. The first ``done`` batches are left out.
    """
    scenes: dict[str, list[int]] = {}
    for index in sorted(range(len(dataset)), key=lambda at: dataset.samples[at]["index_in_scene"]):
        scenes.setdefault(dataset.samples[index]["scene"], []).append(index)
    longest_first = sorted(scenes, key=lambda name: (-len(scenes[name]), name))
    groups = [longest_first[start : start + streams] for start in range(0, len(longest_first), streams)]
    batches = [
        [Slot(scenes[name][frame], None) for name in group if frame < len(scenes[name])]
        for group in groups
        for frame in range(len(scenes[group[0]]))
    ]
    return load_slots(dataset, batches=batches[done:], workers=workers)


class _Slots(Dataset[Any]):
    """The data set seen through slots instead of indices, as plain arrays."""

    def __init__(self, dataset: Frames) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, slot: Slot) -> Any:
        generator = np.random.default_rng(list(slot.seed) if slot.seed is not None else [0])
        return self.dataset.arrays(slot.item, generator=generator)


def load_slots(dataset: Frames, *, batches: Iterable[list[Slot]], workers: int) -> Iterator[Batch]:
    """Workers send one image tensor and small arrays per batch: a tensor sent costs a file descriptor."""
    loader: Iterable[Any] = DataLoader(
        _Slots(dataset),
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=dataset.packed,
        worker_init_fn=_single_thread if workers else None,
        prefetch_factor=4 if workers else None,
    )
    for sent in loader:
        yield dataset.batch(sent)


def _single_thread(worker: int) -> None:
    cv2.setNumThreads(0)
