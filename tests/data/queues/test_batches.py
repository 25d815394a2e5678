"""Batches: pure functions of (seed, step), the same on any number of workers and ranks; whole scenes in streams."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qdbev.data.nuscenes.records import read_samples
from qdbev.data.queues.batches import TrainingOrder, collate, streaming_batches, training_batches
from qdbev.data.queues.temporal import TemporalDataset

SETTINGS: dict[str, Any] = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375), "to_rgb": True,
                            "pad_divisor": 16}  # fmt: skip


@pytest.fixture(scope="module")
def training(tiny_tree: Path) -> TemporalDataset:
    samples = read_samples(tiny_tree, version="v1.0-trainval")
    return TemporalDataset(samples, root=tiny_tree, train=True, queue_length=2, **SETTINGS)


def tokens(batch: dict[str, Any]) -> list[str]:
    return [sample.metainfo["frames"][-1]["token"] for sample in batch["data_samples"]]


def assert_equal(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert torch.equal(first["inputs"]["img"], second["inputs"]["img"])
    for left, right in zip(first["data_samples"], second["data_samples"], strict=True):
        for own, other in zip(left.metainfo["frames"], right.metainfo["frames"], strict=True):
            assert own.keys() == other.keys()
            assert all(torch.equal(torch.as_tensor(own[key]), torch.as_tensor(other[key]))
                       for key in own if key not in ("token", "scene"))  # fmt: skip
            assert (own["token"], own["scene"]) == (other["token"], other["scene"])
        assert torch.equal(left.gt_instances_3d.bboxes_3d.tensor, right.gt_instances_3d.bboxes_3d.tensor)
        assert torch.equal(left.gt_instances_3d.labels_3d, right.gt_instances_3d.labels_3d)


def test_a_later_start_gives_the_same_batches(training: TemporalDataset) -> None:
    settings: dict[str, Any] = {"batch_size": 2, "seed": 3, "steps": 7}
    whole = list(training_batches(training, start_step=0, workers=0, **settings))
    assert len(whole) == 7
    resumed = list(training_batches(training, start_step=4, workers=2, **settings))
    for first, second in zip(whole[4:], resumed, strict=True):
        assert_equal(first, second)
    other = next(training_batches(training, start_step=0, workers=0, batch_size=2, seed=4, steps=1))
    assert not torch.equal(other["inputs"]["img"], whole[0]["inputs"]["img"])


def test_ranks_share_the_global_batch(training: TemporalDataset) -> None:
    settings: dict[str, Any] = {"seed": 3, "start_step": 2, "steps": 4, "workers": 0}
    alone = list(training_batches(training, batch_size=4, **settings))
    ranks = [list(training_batches(training, batch_size=2, rank=rank, world_size=2, **settings)) for rank in (0, 1)]
    for step, batch in enumerate(alone):
        joined = torch.cat([ranks[0][step]["inputs"]["img"], ranks[1][step]["inputs"]["img"]])
        assert torch.equal(batch["inputs"]["img"], joined)
        assert tokens(batch) == tokens(ranks[0][step]) + tokens(ranks[1][step])


@given(count=st.integers(1, 30), batch=st.integers(1, 9), seed=st.integers(0, 2**31))
def test_every_epoch_is_a_permutation(count: int, batch: int, seed: int) -> None:
    order = TrainingOrder(count, seed=seed)
    steps = -(-3 * count // batch)
    chain = [order.slot(step, place=place, global_batch=batch) for step in range(steps) for place in range(batch)]
    for epoch in range(3):
        assert sorted(slot.item for slot in chain[epoch * count : (epoch + 1) * count]) == list(range(count))
    assert len({slot.seed for slot in chain}) == len(chain)
    late = TrainingOrder(count, seed=seed)
    assert late.slot(steps - 1, place=0, global_batch=batch) == chain[(steps - 1) * batch]


def test_order_differs_between_epochs() -> None:
    order = TrainingOrder(50, seed=0)
    chain = [order.slot(step, place=0, global_batch=1).item for step in range(100)]
    assert chain[:50] != chain[50:]


def test_streams_hold_whole_scenes_in_order(tiny_tree: Path) -> None:
    samples = read_samples(tiny_tree, version="v1.0-trainval")
    uneven = [sample for sample in samples if sample["token"] not in ("scene-0001-2", "scene-0003-1", "scene-0003-2")]
    data = TemporalDataset(uneven[::-1], root=tiny_tree, train=False, **SETTINGS)
    batches = [tokens(batch) for batch in streaming_batches(data, streams=2, workers=0)]
    assert batches == [
        ["scene-0002-0", "scene-0001-0"], ["scene-0002-1", "scene-0001-1"], ["scene-0002-2"], ["scene-0003-0"]
    ]  # fmt: skip


@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=9), streams=st.integers(1, 5))
def test_streams_are_complete_for_any_lengths(lengths: list[int], streams: int) -> None:
    class Fake:
        packed, batch = staticmethod(TemporalDataset.packed), staticmethod(TemporalDataset.batch)
        samples = [  # noqa: RUF012
            {"scene": f"s{scene}", "index_in_scene": frame}
            for scene, count in enumerate(lengths)
            for frame in range(count)
        ]

        def __len__(self) -> int:
            return len(self.samples)

        def arrays(self, index: int, *, generator: np.random.Generator) -> dict[str, Any]:
            frame = {"at": index, "lidar2img": np.zeros(1), "can_bus": np.zeros(1)}
            return {"img": np.zeros(1), "frames": [frame], "boxes": np.zeros((0, 9), np.float32), "labels": np.zeros(0)}

    running: dict[str, int] = {}
    for batch in streaming_batches(Fake(), streams=streams, workers=0):  # type: ignore[arg-type]
        records = [Fake.samples[sample.metainfo["frames"][0]["at"]] for sample in batch["data_samples"]]
        assert len({record["scene"] for record in records}) == len(records) <= streams
        for record in records:
            assert record["index_in_scene"] == running.get(record["scene"], 0)
            running[record["scene"]] = record["index_in_scene"] + 1
    assert running == {f"s{scene}": count for scene, count in enumerate(lengths)}


def test_collate_is_the_items(training: TemporalDataset) -> None:
    items = [training.item(index, generator=np.random.default_rng(index)) for index in (1, 5)]
    batch = collate(items)
    assert batch["inputs"]["img"].shape == (2, 2, 6, 3, 32, 32)
    assert torch.equal(batch["inputs"]["img"][1], items[1]["inputs"]["img"])
    assert batch["data_samples"][0] is items[0]["data_samples"]


def test_what_is_sent_becomes_the_items(training: TemporalDataset) -> None:
    items = [training.item(index, generator=np.random.default_rng(index)) for index in (1, 5)]
    arrays = [training.arrays(index, generator=np.random.default_rng(index)) for index in (1, 5)]
    batch = training.batch(training.packed(arrays))
    assert batch["inputs"]["img"].shape == (2, 2, 6, 3, 32, 32)
    for number, item in enumerate(items):
        sample, expected = batch["data_samples"][number], item["data_samples"]
        assert torch.equal(batch["inputs"]["img"][number], item["inputs"]["img"])
        assert [one["token"] for one in sample.frames] == [one["token"] for one in expected.frames]
        assert torch.equal(sample.gt_instances_3d.bboxes_3d.tensor, expected.gt_instances_3d.bboxes_3d.tensor)


def test_bad_requests_are_refused(training: TemporalDataset) -> None:
    settings: dict[str, Any] = {"seed": 0, "start_step": 0, "steps": 1, "workers": 0}
    with pytest.raises(ValueError, match="rank must be"):
        training_batches(training, batch_size=1, rank=2, world_size=2, **settings)
    with pytest.raises(ValueError, match="batch size"):
        training_batches(training, batch_size=0, **settings)
