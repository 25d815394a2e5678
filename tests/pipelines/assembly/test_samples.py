"""The training split may join scenes of further seeds; nothing else sees them."""

from __future__ import annotations

import profiles
from pipelines.assembly.samples import load_split, training_dataset, with_more_seeds

SMALL = ["data.train_scenes=1", "data.val_scenes=1", "data.key_frames=2"]


def test_further_seeds_join_the_training_split_alone() -> None:
    profile = profiles.load("w4a6", overrides=[*SMALL, "data.more_seeds=[1]"])
    own = load_split(profile.data, name="train")
    both = with_more_seeds(own, data=profile.data)
    arguments = {"model": profile.model, "data": profile.data, "schedule": profile.float_training}
    dataset = training_dataset(both, **arguments)

    assert len(own.samples) == len(training_dataset(own, **arguments)) == 2
    assert len(both.samples) == 2 and len(dataset) == 4
    assert len({sample["token"] for sample in dataset.samples}) == 4
    assert both.digest != own.digest
    first, other = dataset[0]["inputs"]["img"], dataset[2]["inputs"]["img"]
    assert first.shape == other.shape and not first.equal(other)


def test_without_further_seeds_the_split_stays() -> None:
    profile = profiles.load("w4a6", overrides=SMALL)
    own = load_split(profile.data, name="train")
    assert with_more_seeds(own, data=profile.data) is own
