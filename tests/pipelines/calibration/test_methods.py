"""The rows of calibration methods: those of the profile, in its order, and their steps in words."""

from __future__ import annotations

from typing import get_args

import pytest

import profiles
from pipelines.calibration.methods import METHODS, CalibrationRow
from profiles.sections.calibration import CalibrationMethod


def test_rows_are_the_methods_of_the_profile() -> None:
    assert tuple(row.name for row in METHODS) == get_args(CalibrationMethod)


@pytest.mark.parametrize("row", METHODS, ids=lambda row: row.name)
def test_ranges_are_one_of_the_steps_of_every_method(row: CalibrationRow) -> None:
    profile = profiles.load("w4a6", overrides=[f"calibration.method={row.name}"])
    ranges = f"calibrate {profile.model.name} to W4A6 on 32 samples of the train split"
    place = {"dfq": 1}.get(row.name, 0)
    assert row.steps(profile)[place] == ranges
    assert len(row.steps(profile)) == {"ptq": 1, "dfq": 3}.get(row.name, 2)
