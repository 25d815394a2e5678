"""Every detector that comes with weights: small files that say where they come from, and see what is there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import profiles
from pipelines.lineage.stated import shipped_weights
from pipelines.store.artifacts import Store
from pipelines.store.locations import ZOO
from pipelines.store.naming import model_name

Call = Callable[..., dict[str, Any]]
SHIPPED = sorted(str(model_name(artifact.manifest.profile)) for artifact in Store.zoo(ZOO).list())
MOST_BYTES = 6 << 20


@pytest.fixture(scope="module")
def settings(tiny_synthetic: Path) -> list[str]:
    return [f"data.source={tiny_synthetic}", "data.val_scenes=2", "evaluation.bootstrap_resamples=0"]


def test_a_model_whose_profile_says_zoo_is_shipped_and_no_other() -> None:
    named = {name for name in profiles.builtin_models() if profiles.load("float", model=name).model.weights == "zoo"}
    assert named == set(SHIPPED)


@pytest.mark.parametrize("model", SHIPPED)
def test_the_file_is_small_and_names_no_folder(model: str) -> None:
    artifact = shipped_weights(model)
    assert artifact is not None
    assert sum(file.bytes for file in artifact.manifest.files.values()) < MOST_BYTES
    record = artifact.manifest.record
    assert not record.command and not record.circumstances


@pytest.mark.parametrize("model", SHIPPED)
def test_it_finds_objects_of_scenes_it_has_not_seen(call: Call, model: str) -> None:
    assert call("evaluate", "--profile", "float", "--model", model)["metrics"]["NDS"] > 0.3
