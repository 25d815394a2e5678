"""The memory of a stream."""

from __future__ import annotations

import pytest
import torch

from qdbev.detectors.bevformer.frames.history import StreamingHistory
from qdbev.detectors.images.frame_batch import FrameBatch


def step(*places, follows=True):
    """Frames at (scene, index) places."""
    count = len(places)
    return FrameBatch(
        scenes=tuple(scene for scene, _ in places),
        indices=tuple(index for _, index in places),
        follows=(follows,) * count,
        can_bus_B18=torch.zeros(count, 18),
        lidar2img_BN44=torch.zeros(count, 6, 4, 4),
        image_size_B2=torch.ones(count, 2),
    )


def bev(*numbers):
    return torch.tensor(numbers, dtype=torch.float32)[:, None, None]


def test_only_the_next_frame_of_the_scene_finds_its_history():
    memory = StreamingHistory()
    assert memory.lookup(step(("a", 0))) is None
    memory.store(bev(1), frames=step(("a", 0)))
    assert memory.lookup(step(("a", 1))).bev_BQC.tolist() == [[[1.0]]]
    assert memory.lookup(step(("a", 2))) is None
    assert memory.lookup(step(("a", 0))) is None
    assert memory.lookup(step(("b", 1))) is None


def test_scenes_in_lockstep_keep_their_own_history():
    memory = StreamingHistory()
    memory.store(bev(1, 2), frames=step(("a", 3), ("b", 7)))
    found = memory.lookup(step(("c", 0), ("b", 8), ("a", 4)))
    assert found.present == (False, True, True)
    assert found.bev_BQC[1:].flatten().tolist() == [2.0, 1.0]


def test_a_frame_that_says_it_follows_nothing_has_no_history():
    memory = StreamingHistory()
    memory.store(bev(1), frames=step(("a", 0)))
    assert memory.lookup(step(("a", 1), follows=False)) is None


def test_reset_forgets():
    memory = StreamingHistory()
    memory.store(bev(1), frames=step(("a", 0)))
    memory.reset()
    assert memory.lookup(step(("a", 1))) is None


def test_the_scene_unused_for_longest_is_forgotten():
    memory = StreamingHistory(max_scenes=2)
    for scene in "abc":
        memory.store(bev(1), frames=step((scene, 0)))
    assert memory.lookup(step(("a", 1))) is None
    assert memory.lookup(step(("b", 1))) is not None


def test_stored_features_are_a_copy():
    memory, features = StreamingHistory(), bev(1)
    memory.store(features, frames=step(("a", 0)))
    features.zero_()
    assert memory.lookup(step(("a", 1))).bev_BQC.flatten().tolist() == [1.0]


def test_two_frames_of_a_scene_in_one_batch_are_refused():
    with pytest.raises(ValueError, match="one frame per scene"):
        StreamingHistory().lookup(step(("a", 0), ("a", 1)))


def test_another_memory_takes_up_the_scene_seen_last():
    memory, other = StreamingHistory(), StreamingHistory()
    for scene, number in (("a", 1), ("b", 2)):
        memory.store(bev(number), frames=step((scene, 4)))
    other.take_up(memory.last_scene())
    assert other.lookup(step(("b", 5))).bev_BQC.flatten().tolist() == [2.0]
    assert other.lookup(step(("a", 5))) is None and StreamingHistory().last_scene() == {}
