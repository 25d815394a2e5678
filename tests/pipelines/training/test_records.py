"""Losses as a table: the numbers of the curve, to the last bit; event files only where a tracker writes them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

import profiles
from pipelines.assembly.job import Job
from pipelines.commands import train_float
from pipelines.store.artifacts import Artifact, Store
from pipelines.training.records import losses_csv


def test_what_a_row_lacks_is_empty_and_numbers_are_whole() -> None:
    curve = [{"step": 3, "learning_rate": 0.1, "loss": 1 / 3}, {"step": 4, "learning_rate": 0.1, "aux": 2.0}]
    text = losses_csv(curve, training="qat stage 2/4 (+neck)")
    assert text.splitlines() == [
        "training,step,learning_rate,loss,aux",
        "qat stage 2/4 (+neck),3,0.1,0.3333333333333333,",
        "qat stage 2/4 (+neck),4,0.1,,2.0",
    ]
    assert losses_csv([], training="vgd") == "training,step,learning_rate,loss\n"


@pytest.mark.parametrize("trackers", ["[]", "tensorboard"])
def test_the_table_of_a_training_holds_its_curve_and_trackers_are_as_the_profile_says(
    tiny_synthetic: Path, tmp_path: Path, mite: str, trackers: str
) -> None:
    sizes = ("float_training.steps=2", "float_training.batch_size=1", "float_training.log_every=1")
    data = (f"data.source={tiny_synthetic}", "data.train_scenes=1", f"data.cache={tmp_path / 'cache'}")
    words = [*sizes, *data, "data.more_seeds=[]", f"log_with={trackers}"]
    profile = profiles.load("float", model=mite, overrides=words, device="cpu")
    outcome = train_float.run(Job(profile, Store(tmp_path / "runs")))
    artifact = outcome.artifact
    assert artifact is not None and _table(artifact) == json.loads(artifact.file("curve.json").read_text())
    events = tmp_path / "runs/_tensorboard" / artifact.path.name
    assert events.is_dir() == (trackers != "[]")
    assert (f"curves as they grew: tensorboard --logdir {events.parent}" in outcome.messages) == events.is_dir()


def _table(artifact: Artifact) -> list[dict[str, float]]:
    rows = list(csv.DictReader(artifact.file("losses.csv").read_text().splitlines()))
    assert {row.pop("training") for row in rows} == {"float"}
    return [{name: float(text) for name, text in row.items() if text} for row in rows]
