"""A profile printed as YAML loads back to the same profile."""

from __future__ import annotations

from pathlib import Path

import pytest

import profiles
from profiles.description import as_yaml, headline


@pytest.mark.parametrize("name", profiles.builtin_profiles())
@pytest.mark.parametrize("model", profiles.builtin_models())
def test_printed_profile_loads_back(tmp_path: Path, name: str, model: str) -> None:
    profile = profiles.load(name, model=model, seed=5)
    path = tmp_path / "printed.yaml"
    path.write_text(as_yaml(profile))
    assert profiles.load(path).model_copy(update={"overrides": profile.overrides}) == profile


def test_every_value_carries_its_meaning() -> None:
    lines = as_yaml(profiles.load("w4a6")).splitlines()
    assert all("  # " in line for line in lines)
    assert any(line.startswith("  weight_bits: 4 ") and line.endswith("32 leaves them in float.") for line in lines)


def test_headline_is_the_first_comment() -> None:
    assert headline(profiles.builtin_profiles()["w4a6"]) == "W4A6: 4-bit weights, 6-bit activations."
