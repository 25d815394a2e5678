"""Small files that were changed and sealed again: each kind is refused where it contradicts the manifest."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

import profiles
from pipelines.lineage.agreement import CHECKS, check_agreement
from pipelines.store.artifacts import Artifact, DamagedArtifact, Store
from profiles.sections.calibration import CalibrationMethod

SCORES = {"nds": 0.4, "mean_ap": 0.3, "errors": {"mATE": 0.5}, "samples": 8, "classes": {"car": {"AP": 0.3}}}
PLAN = {"predicted_loss": 0.1, "uniform": {"W4A6": 0.2}, "share": {"size": 0.1}, "mean_bits": {"weights": 4.0}}
SOUND: dict[str, tuple[Any, dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "scores.json": (SCORES, {"NDS": 0.4, "mAP": 0.3, "mATE": 0.5}, {"samples": 8}, ()),
    "bit-plan.json": (PLAN, PLAN, {}, ()),
    "structure.json": ({"parts": ["backbone"]}, {}, {"parts": ["backbone"]}, ()),
    "curve.json": ([{"step": 1, "loss": 2.0}, {"step": 4, "loss": 1.0}], {"steps": 4}, {}, ()),
    "losses.csv": ("step,loss\n1,2.0\n4,1.0\n", {"steps": 4}, {}, ()),
    "smoothing.json": ({"smoothed": [{"least": 0.5, "most": 2.0}]}, {}, {}, ("calibration.smoothing=0.5",)),
    **{
        f"{method}.json": ({"rounded": []}, {}, {}, (f"calibration.method={method}",))
        for method in sorted({*get_args(CalibrationMethod)} - {"ptq"})
    },
}
LIES: list[tuple[str, Callable[[Any], object]]] = [
    ("scores.json", lambda it: it.update(nds=0.9)),
    ("scores.json", lambda it: it["errors"].update(mATE=0.1)),
    ("scores.json", lambda it: it.update(samples=9)),
    ("scores.json", lambda it: it["classes"]["car"].update(AP=0.9)),
    ("scores.json", lambda it: it.update(nds=float("nan"))),
    ("scores.json", lambda it: it.pop("classes")),
    ("bit-plan.json", lambda it: it.update(predicted_loss=0.0)),
    ("structure.json", lambda it: it.update(parts=["backbone", "neck"])),
    ("curve.json", lambda it: it.append({"step": 5})),
    ("curve.json", lambda it: it.reverse()),
    ("curve.json", lambda it: it.append(7)),
    ("smoothing.json", lambda it: it["smoothed"][0].update(least=-1.0)),
]


def sealed(at: Path, name: str, *, document: Any, words: tuple[str, ...] | None = None) -> Artifact:
    _, metrics, data, usual = SOUND[name]
    profile = profiles.load("w4a6", overrides=[*(usual if words is None else words)])
    text = document if name.endswith(".csv") else json.dumps(document)
    return Store(at).seal(
        "qat",
        profile=profile,
        key="a" * 64,
        write=lambda folder: (folder / name).write_text(text),
        metrics=metrics,
        data=data,
    )


@pytest.mark.parametrize("name", SOUND)
def test_what_agrees_is_taken(tmp_path: Path, name: str) -> None:
    check_agreement(sealed(tmp_path, name, document=SOUND[name][0]))


@pytest.mark.parametrize(("name", "lie"), LIES)
def test_what_contradicts_the_manifest_is_refused(tmp_path: Path, name: str, lie: Callable[[Any], object]) -> None:
    document = copy.deepcopy(SOUND[name][0])
    lie(document)
    with pytest.raises(DamagedArtifact, match=f"is refused: {name}: "):
        check_agreement(sealed(tmp_path, name, document=document))


@pytest.mark.parametrize("rows", ["5,1.0\n", "3,1.0\n", "7\n", "a,1.0\n", 'b,"1'])
def test_losses_of_other_steps_are_refused(tmp_path: Path, rows: str) -> None:
    text = SOUND["losses.csv"][0] + rows
    with pytest.raises(DamagedArtifact, match=r"is refused: losses\.csv: "):
        check_agreement(sealed(tmp_path, "losses.csv", document=text))


@pytest.mark.parametrize("name", [name for name, row in SOUND.items() if row[3]])
def test_a_record_of_another_method_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DamagedArtifact, match=f"is refused: {name}: "):
        check_agreement(sealed(tmp_path, name, document=SOUND[name][0], words=()))


@pytest.mark.parametrize("name", ["NDS", "mATE"])
def test_a_manifest_that_lacks_a_score_is_refused(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    document, metrics, data, words = SOUND["scores.json"]
    metrics = {key: value for key, value in metrics.items() if key != name}
    monkeypatch.setitem(SOUND, "scores.json", (document, metrics, data, words))
    with pytest.raises(DamagedArtifact, match=rf"scores\.json: {name} is not in the manifest"):
        check_agreement(sealed(tmp_path, "scores.json", document=document))


def test_each_kind_of_small_file_is_tried() -> None:
    assert {*SOUND, "ptq.json"} == set(CHECKS)  # which leaves no record
