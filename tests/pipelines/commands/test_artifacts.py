"""Listing, showing and verifying: tables, details for programs, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import profiles
from pipelines.commands import artifacts
from pipelines.store.artifacts import Artifact, MissingArtifact, Store

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
    assert result.messages == [f"0 artifacts in {store.root}"]


def test_list_shows_the_damaged_at_the_end(store: Store) -> None:
    broken, sound = seal(store, 1), seal(store, 2)
    (broken.path / "manifest.json").write_text("{}")
    rows = artifacts.list_all(store).tables[0].cells
    assert [row[:3] for row in rows] == [["qat", "w4a6-nano", sound.digest[:12]], ["?", broken.path.name, "damaged"]]


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
    with pytest.raises(MissingArtifact, match="nothing yet"):
        artifacts.verify(store, refs=("nobody",))
