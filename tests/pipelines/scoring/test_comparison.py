"""Intervals: none of fewer scenes than five, none where the profile asks for none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import profiles
from pipelines.scoring.comparison import interval_between, intervals_to_first, resampled


@pytest.mark.parametrize(("scenes", "resamples", "interval"), [(4, 200, False), (5, 200, True), (5, 1, False)])
def test_an_interval_takes_five_scenes_and_two_resamples(scenes: int, resamples: int, interval: bool) -> None:
    profile = profiles.load("w4a6", overrides=[f"evaluation.bootstrap_resamples={resamples}"])
    assert resampled(scenes, profile=profile) is interval


def test_few_scenes_are_neither_read_nor_resampled() -> None:
    job: Any = SimpleNamespace(profile=profiles.load("w4a6"), progress=False)
    link: Any = SimpleNamespace(name="float", evaluation=SimpleNamespace(manifest=SimpleNamespace(data={"scenes": 4})))
    assert intervals_to_first([link, link], job=job) == {}
    assert interval_between(link, link, job=job) == {}
