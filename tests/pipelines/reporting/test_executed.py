"""The table of what runs: the end of a chain against its exported graphs, from manifests alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from pipelines.reporting.chain_tables import executed_tables

SCORES = {"NDS": 0.4, "mAP": 0.3, "mATE": 0.5, "mASE": 0.5, "mAOE": 0.5, "mAVE": 0.5, "mAAE": 0.5}


def artifact(kind: str, digest: str, *, model: str, data: str = "val", **metrics: Any) -> Any:
    stated = {"data": data, "runtime": "ort"}
    return SimpleNamespace(
        digest=digest,
        manifest=SimpleNamespace(kind=kind, parents={"model": model}, data=stated, metrics=SCORES | metrics),
    )


def test_graphs_of_the_model_on_its_samples_are_rows() -> None:
    scored = artifact("evaluation", "e0", model="m")
    end: Any = SimpleNamespace(
        name="QAT", bits="W4A6", model=SimpleNamespace(digest="m"), evaluation=scored, scores=SCORES
    )
    interval = {"value": 0.01, "low": -0.02, "high": 0.03}
    artifacts = [
        artifact("onnx", "g", model="m"),
        artifact("onnx", "other", model="another"),
        artifact("evaluation", "e1", model="g", NDS=0.41, to_trained=interval),
        artifact("evaluation", "e2", model="g", data="other samples", NDS=0.9),
        artifact("evaluation", "e3", model="other", NDS=0.9),
    ]
    (table,) = executed_tables(end, store=SimpleNamespace(list=lambda: artifacts))  # type: ignore[arg-type]
    assert [row["name"] for row in table.rows] == ["QAT", "executed by ort"]
    assert (table.rows[1]["NDS"], table.rows[1]["NDS_low"], table.rows[1]["NDS_high"]) == (0.41, -0.02, 0.03)
    assert round(table.rows[1]["NDS_change"], 9) == 0.01


def test_without_a_scored_graph_there_is_no_table() -> None:
    end: Any = SimpleNamespace(evaluation=None)
    assert executed_tables(end, store=SimpleNamespace(list=list)) == []  # type: ignore[arg-type]
