"""Listing, showing and verifying: tables, details for programs, what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

import profiles
from pipelines.commands import artifacts
from pipelines.store.artifacts import Artifact, MissingArtifact, Store
from pipelines.store.removing import remove_folder

PROFILE = profiles.load("w4a6")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def seal(store: Store, number: int) -> Artifact:
    return store.seal(
        "qat",
        profile=PROFILE,
        key=profiles.fingerprint(number),
        write=lambda folder: (folder / "ranges.json").write_text("[]"),
        metrics={"val": {"nds": 0.25}},
        parents={"float": "ab" * 32},
    )


def test_an_empty_store(store: Store) -> None:
    result = artifacts.list_all(store)
    assert (result.tables, result.details["artifacts"]) == ([], [])
    assert result.messages == [f"0 artifacts in {store.root}, 0 B"]


def test_list_shows_the_damaged_at_the_end(store: Store) -> None:
    broken, sound = seal(store, 1), seal(store, 2)
    (broken.path / "manifest.json").write_text("{}")
    rows = artifacts.list_all(store).tables[0].rows
    assert [(row["kind"], row["name"], row["digest"]) for row in rows] == [
        ("qat", "w4a6-nano", sound.digest[:12]),
        ("?", broken.path.name, ""),
    ]
    assert rows[1]["stage"] == "damaged"


def test_show_gives_the_manifest_with_its_metrics_and_files(store: Store) -> None:
    artifact = seal(store, 1)
    result = artifacts.show(store, ref="qat:w4a6-nano")
    facts, files = (table.rows for table in result.tables)
    assert {"name": "val.nds", "value": 0.25} in facts
    assert {"name": "parent float", "value": "ab" * 32} in facts
    sha256 = artifact.manifest.files["ranges.json"].sha256[:12]
    assert files == ({"file": "ranges.json", "bytes": 2, "sha256": sha256},)
    assert result.details["manifest"]["digest"] == artifact.digest
    json.dumps(result.details)


def test_verify_refuses_one_and_passes_the_other(store: Store) -> None:
    broken, sound = seal(store, 1), seal(store, 2)
    (broken.path / "ranges.json").write_text("{}")
    result = artifacts.verify(store)
    assert {row["artifact"]: row["state"] for row in result.tables[0].rows} == {
        broken.path.name: "REFUSED",
        sound.path.name: "sound",
    }
    [sentence] = result.details["damaged"]
    assert "ranges.json was changed" in sentence
    assert not result.ok
    alone = artifacts.verify(store, refs=(sound.digest[:8],))
    assert (alone.details["damaged"], alone.ok) == ([], True)


def test_verify_of_a_name_nobody_has(store: Store) -> None:
    with pytest.raises(MissingArtifact, match="which is empty"):
        artifacts.verify(store, refs=("nobody",))


# -- stages, scores, what stands on what ---------------------------------------------------------------------------


def sealed(
    store: Store, kind: str, number: int, *, on: Artifact | None = None, role: str = "start", **data: Any
) -> Artifact:
    """An artifact of a chain: what it was made from, and what its manifest says."""
    metrics = {"NDS": data.pop("nds"), "mAP": 0.25} if "nds" in data else {"steps": 20}
    return store.seal(
        kind,
        profile=PROFILE,
        key=profiles.fingerprint([kind, number]),
        write=lambda folder: (folder / "ranges.json").write_text("[]" + " " * number),
        metrics=metrics,
        data=data,
        parents={role: on.digest} if on else {},
    )


@pytest.fixture
def chain(store: Store) -> dict[str, Artifact]:
    """Ranges, a stage on them, an evaluation of each."""
    ptq = sealed(store, "calibration", 1)
    stage = sealed(store, "qat", 2, on=ptq, stage=1, stages=4, parts=["backbone"])
    first = sealed(store, "evaluation", 3, on=ptq, role="model", nds=0.41)
    second = sealed(store, "evaluation", 4, on=stage, role="model", nds=0.52)
    return {"ptq": ptq, "stage": stage, "first": first, "second": second}


def test_a_list_says_stage_score_age_and_size_also_of_what_an_evaluation_scored(
    store: Store, chain: dict[str, Artifact]
) -> None:
    result = artifacts.list_all(store)
    (table,) = result.tables
    rows = [(row["kind"], row["stage"], row["NDS"], row["age"]) for row in table.rows]
    assert rows == [
        ("calibration", "PTQ", 0.41, "now"),
        ("qat", "QAT 1/4 (+backbone)", 0.52, "now"),
        ("evaluation", "PTQ", 0.41, "now"),
        ("evaluation", "QAT 1/4 (+backbone)", 0.52, "now"),
    ]
    assert [(cells[5], row["bytes"]) for cells, row in zip(table.cells, table.rows, strict=True)] == [
        (f"{size} B", size) for size in (3, 4, 5, 6)
    ]
    listed = result.details["artifacts"][1]
    created = chain["stage"].manifest.record.created
    wanted = {"stage": "QAT 1/4 (+backbone)", "created": created, "bytes": 4, "NDS": 0.52, "mAP": 0.25}
    assert wanted.items() <= listed.items()
    assert result.details["bytes"] == 3 + 4 + 5 + 6


def test_show_names_the_stage_the_model_that_was_scored_and_the_command(
    store: Store, chain: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/qdbev", "evaluate", "--set", "seed=a b"])
    made = sealed(store, "evaluation", 9, on=chain["stage"], role="model", nds=0.5)
    facts = {row["name"]: row["value"] for row in artifacts.show(store, ref=made.digest).tables[0].rows}
    assert facts["model scored"] == f"QAT 1/4 (+backbone): {chain['stage'].path.name}"
    assert facts["command"] == "qdbev evaluate --set 'seed=a b'"
    monkeypatch.setattr("sys.argv", ["/somewhere/qdbev_cli/__main__.py", "evaluate"])
    made = sealed(store, "evaluation", 8, on=chain["stage"], role="model", nds=0.5)
    facts = {row["name"]: row["value"] for row in artifacts.show(store, ref=made.digest).tables[0].rows}
    assert facts["command"] == "qdbev evaluate"
    facts = {row["name"]: row["value"] for row in artifacts.show(store, ref=chain["ptq"].digest).tables[0].rows}
    assert facts["stage"] == "PTQ" and "model scored" not in facts


def test_what_others_stand_on_is_kept_unless_told(store: Store, chain: dict[str, Artifact]) -> None:
    with pytest.raises(ValueError, match=r"stand on it: --with-children removes them too"):
        artifacts.remove(store, refs=(chain["ptq"].path.name,))
    assert len(store.list()) == 4
    result = artifacts.remove(store, refs=(chain["second"].digest[:8],))
    assert result.details["removed"] == [chain["second"].path.name]
    would = artifacts.remove(store, refs=("calibration:w4a6-nano",), with_children=True, dry_run=True).would_do
    assert would == [f"remove {chain[name].path}" for name in ("ptq", "stage", "first")] and len(store.list()) == 3
    artifacts.remove(store, refs=("calibration:w4a6-nano",), with_children=True)
    assert store.folders() == [] and not list(store.root.glob(".unfinished*"))


def test_gc_removes_what_lost_its_parents_and_old_resume_state_alone(store: Store, chain: dict[str, Artifact]) -> None:
    old, new = store.scratch("qat", key="ab" * 32), store.scratch("vgd", key="cd" * 32)
    (old / "state").write_text("x")
    for path in (old, old / "state"):
        os.utime(path, (0, 0))
    remove_folder(chain["stage"].path)
    result = artifacts.clear(store, days=30)
    assert result.details["removed"] == [chain["second"].path.name, old.name]
    assert new.is_dir() and {one.digest for one in store.list()} == {chain["ptq"].digest, chain["first"].digest}
    assert artifacts.clear(store, days=30).messages == ["there is nothing to remove"]


def test_du_adds_up(store: Store, chain: dict[str, Artifact]) -> None:
    (store.scratch("qat", key="ab" * 32) / "state").write_bytes(b"x" * 10**6)
    events = store.root / "_tensorboard" / chain["stage"].path.name
    events.mkdir(parents=True)
    (events / "events.out.tfevents.1").write_bytes(b"x" * 2 * 10**6)
    rows = [tuple(row.values()) for row in artifacts.measure(store).tables[0].rows]
    assert rows == [
        ("calibration", 1, 3),
        ("evaluation", 2, 5 + 6),
        ("qat", 1, 4),
        ("resume state", 1, 10**6),
        ("TensorBoard", 1, 2 * 10**6),
        ("all", 6, 3 * 10**6 + 18),
    ]
    assert [cells[-1] for cells in artifacts.measure(store).tables[0].cells[-2:]] == ["2.0 MB", "3.0 MB"]


def test_events_go_with_their_artifact_or_when_nobody_goes_on_with_them(
    store: Store, chain: dict[str, Artifact]
) -> None:
    of_it, lost, new = (store.root / "_tensorboard" / name for name in (chain["second"].path.name, "lost", "new"))
    for folder in (of_it, lost, new):
        folder.mkdir(parents=True)
    for folder in (of_it, lost):
        os.utime(folder, (0, 0))
    assert artifacts.clear(store, days=30).details["removed"] == ["_tensorboard/lost"]
    removed = artifacts.remove(store, refs=(chain["second"].digest[:8],)).details["removed"]
    assert removed == [of_it.name, f"_tensorboard/{of_it.name}"]
    assert [path.name for path in (store.root / "_tensorboard").iterdir()] == ["new"]


def test_a_mistyped_store_is_said_and_so_is_a_mistyped_name(store: Store, chain: dict[str, Artifact]) -> None:
    for ask in (artifacts.list_all, artifacts.verify, artifacts.measure):
        with pytest.raises(MissingArtifact, match=rf"there is no store .*; did you mean {store.root.name}\?"):
            ask(Store(f"{store.root}x"))
    assert artifacts.list_all(Store("runs")).messages == ["0 artifacts in runs, 0 B"]
    with pytest.raises(MissingArtifact, match=r"there is no artifact 'qat:w4a6-nan' .*; did you mean qat:w4a6-nano\?"):
        store.open("qat:w4a6-nan")
    with pytest.raises(MissingArtifact, match=r"`qdbev artifacts list` shows the 4 artifacts there"):
        store.open("0123456789")
