"""The sensitivity pipeline before anything is measured: what it refuses, in which order, and its key."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import profiles
from pipelines.assembly.job import Job
from pipelines.commands import sensitivity
from pipelines.lineage.keys import sensitivity_key
from pipelines.scoring import sensitivity as scoring
from pipelines.store.artifacts import MissingArtifact, Store

SAMPLES = [{"token": "a", "scene": "one", "index_in_scene": 0}]


class Reached(Exception):
    """The place in question was reached."""


def reached(*_: Any, **__: Any) -> Any:
    """Stands for work that a test must not do."""
    raise Reached


def key(*words: str, **changed: Any) -> str:
    arguments: dict[str, Any] = {"level": "part", "source": "float", "data": "val", "tokens": ["a"]}
    return sensitivity_key(profiles.load("w4a6", overrides=words), **arguments | changed)


@pytest.mark.parametrize(
    "word",
    [
        "seed=1",
        "model.bev.rotation_nearest=1",
        "quantization.scale_rule=hawq",
        "evaluation.max_boxes=20",
        "evaluation.bootstrap_resamples=7",
    ],
)
def test_what_decides_the_table_is_in_its_key(word: str) -> None:
    assert key(word) != key()


@pytest.mark.parametrize("changed", [{"level": "module"}, {"source": "x"}, {"data": "x"}, {"tokens": ["a", "b"]}])
def test_level_weights_split_and_samples_are_in_its_key(changed: dict[str, Any]) -> None:
    assert key(**changed) != key()


@pytest.mark.parametrize("word", ["model.weights=elsewhere.pth", "device=cpu", "evaluation.streams=2"])
def test_where_things_lie_and_how_fast_they_run_is_not_in_its_key(word: str) -> None:
    assert key(word) == key()


def test_missing_weights_are_said_before_any_scene_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Job, "split", reached)
    profile = profiles.load("w4a6", model="tiny", overrides=[f"data.cache={tmp_path}"])
    with pytest.raises(MissingArtifact, match="bevformer_tiny_epoch_24"):
        sensitivity.run(Job(profile, Store(tmp_path / "runs")))


@pytest.mark.parametrize("dry_run", [True, False])
def test_dfq_is_refused_with_the_reason(dry_run: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "float_artifact", reached)
    profile = profiles.load("w4a6", overrides=["calibration.method=dfq"])
    with pytest.raises(ValueError, match=r"ptq alone, not dfq.*set calibration\.method to ptq"):
        sensitivity.run(Job(profile, Store(tmp_path)), dry_run=dry_run)


def test_force_does_not_look_at_what_is_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged table is refused when it is looked up; force must be able to replace it."""
    train = SimpleNamespace(samples=SAMPLES, digest="train")
    scored = SimpleNamespace(samples=[{"token": "b", "scene": "two"}], digest="val")
    monkeypatch.setattr(scoring, "float_artifact", lambda *_: SimpleNamespace(digest="float"))
    monkeypatch.setattr(scoring, "float_detector", reached)
    monkeypatch.setattr(scoring, "refuse_nothing_to_find", lambda *_, **__: None)
    monkeypatch.setattr(Job, "split", lambda _, name: {"train": train, "val": scored}[name])
    profile, store = profiles.load("w4a6", overrides=["calibration.samples=1"]), Store(tmp_path)

    def damaged(*_: Any, **__: Any) -> Any:
        raise ValueError("damaged")

    monkeypatch.setattr(store, "find", damaged)
    with pytest.raises(ValueError, match="damaged"):
        sensitivity.run(Job(profile, store))
    with pytest.raises(Reached):
        sensitivity.run(Job(profile, store, force=True))
