"""Intervals: none of fewer scenes than five, none where the profile asks for none; sealed results read in parts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import profiles
from pipelines.lineage.kinds import RESULTS
from pipelines.scoring.comparison import interval_between, intervals_to_first, match_results, matches_of, resampled
from pipelines.scoring.results import Results
from pipelines.scoring.results_file import write_results
from qdbev.evaluation import json_parts
from qdbev.evaluation.scores import scores_of
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "scripts"))

from random_scoring import VERSION, World, write_submission, write_tables


@pytest.mark.parametrize(("scenes", "resamples", "interval"), [(4, 200, False), (5, 200, True), (5, 1, False)])
def test_an_interval_takes_five_scenes_and_two_resamples(scenes: int, resamples: int, interval: bool) -> None:
    profile = profiles.load("w4a6", overrides=[f"evaluation.bootstrap_resamples={resamples}"])
    assert resampled(scenes, profile=profile) is interval


def test_few_scenes_are_neither_read_nor_resampled() -> None:
    job: Any = SimpleNamespace(profile=profiles.load("w4a6"), progress=False)
    link: Any = SimpleNamespace(name="float", evaluation=SimpleNamespace(manifest=SimpleNamespace(data={"scenes": 4})))
    assert intervals_to_first([link, link], job=job) == {}
    assert interval_between(link, link, job=job) == {}


def test_sealed_results_are_matched_as_results_in_memory_are_and_never_all_of_them_are_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(scenes=2, samples=3, objects=40, boxes=40, seen=0.6)
    write_tables(tmp_path, world=world, seed=0)
    write_submission(tmp_path / "submission.json", root=tmp_path, world=world, seed=0)
    content = json.loads((tmp_path / "submission.json").read_text())
    write_results(content, folder=tmp_path)
    evaluation: Any = SimpleNamespace(manifest=SimpleNamespace(files=[RESULTS]), file=lambda name: tmp_path / name)
    split: Any = SimpleNamespace(
        root=tmp_path, version=VERSION, scenes=["scene-0000", "scene-0001"], rig=profiles.load("w4a6").data.rig
    )
    expected = match_results(Results(content["results"], left_out={}), split=split)  # type: ignore[arg-type]
    parts: list[int] = []
    parsed = json_parts._parsed
    monkeypatch.setattr(json_parts, "PART_BYTES", 1)
    monkeypatch.setattr(json_parts, "_parsed", lambda data: (parts.append(len(data)), parsed(data))[1])
    assert scores_of(matches_of(evaluation, split=split)).serialize() == scores_of(expected).serialize()
    assert len(parts) == 6  # one a sample
