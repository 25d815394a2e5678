"""A score beside the published one: near, far, of other samples, of no published detector."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import profiles
from pipelines.scoring.published import PUBLISHED, against_published

TABLES = Path("/".join(["shared", "reference", "paper_tables.json"]))


def evaluation(*, model: str = "tiny", nds: float = 0.351, **changes: Any) -> Any:
    words = [f"data.source={changes.pop('source', '/data/nuscenes')}"]
    profile = profiles.load("float", model=model, overrides=words).content()
    data = {"model_kind": "float", "split": "val", "samples": 6019, **changes}
    return SimpleNamespace(manifest=SimpleNamespace(profile=profile, data=data, metrics={"NDS": nds}))


def test_a_score_is_held_against_the_published_one() -> None:
    assert against_published(evaluation()).startswith("0.354 NDS expected, 0.351 here: these are the published weights")
    assert "0.354 NDS expected for tiny, 0.301 here: unless" in against_published(evaluation(nds=0.301))
    assert against_published(evaluation(model="base", nds=0.5121)).startswith("0.517 NDS expected, 0.512 here: these")


def test_of_other_samples_it_is_only_told() -> None:
    told = against_published(evaluation(samples=81))
    assert told == "0.354 NDS is published for tiny on 6,019 samples; these are 81"


@pytest.mark.parametrize(
    "changes", [{"source": "synthetic"}, {"model": "nano"}, {"model_kind": "qat"}, {"split": "train"}]
)
def test_what_is_not_published_is_not_compared(changes: dict[str, Any]) -> None:
    assert against_published(evaluation(**changes)) == ""


def test_published_scores_are_the_float_rows_of_the_papers_table_2() -> None:
    tables = Path(__file__).resolve().parents[3] / TABLES
    if not tables.is_file():
        pytest.skip("needs shared/reference")
    float_row = json.loads(tables.read_text())["table2_PTQ_bitwidth"]["W32A32"]
    assert {name: list(PUBLISHED[name]) for name in ("tiny", "small", "base")} == {
        name: float_row[name] for name in ("tiny", "small", "base")
    }
