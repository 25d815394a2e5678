"""The store: sealed or not there, verified at every opening, the same content under the same digest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import profiles
from pipelines.store import sealing
from pipelines.store.artifacts import Artifact, DamagedArtifact, MissingArtifact, Store, StoreUnwritable, UnusableInput
from profiles.manifest import Manifest, Record

PROFILE = profiles.load("w4a6")
KEY = profiles.fingerprint("key of the tests")


def write_weights(folder: Path) -> None:
    save_file({"a": np.arange(6, dtype=np.float32), "b": np.ones((2, 3), np.float16)}, folder / "weights.safetensors")
    (folder / "ranges").mkdir()
    (folder / "ranges" / "plan.json").write_text('{"layers": 3}\n')


def seal(store: Store, **changes: Any) -> Artifact:
    arguments: dict[str, Any] = {
        "profile": PROFILE,
        "key": KEY,
        "write": write_weights,
        "metrics": {"nds": 0.4},
        "parents": {"float": "ab" * 32},
        **changes,
    }
    return store.seal("qat", **arguments)


def remains(store: Store) -> list[str]:
    """Everything in the store's folder, hidden folders included."""
    return sorted(path.relative_to(store.root).as_posix() for path in store.root.rglob("*"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


# -- what a sealed artifact is -------------------------------------------------------------------------------------


def test_a_sealed_artifact_has_a_speaking_name_and_all_its_files(store: Store) -> None:
    artifact = seal(store)
    assert artifact.path == store.root / f"qat-w4a6-nano-{KEY[:12]}"
    assert remains(store) == sorted(
        [
            artifact.path.name,
            *(f"{artifact.path.name}/{name}" for name in ("manifest.json", "ranges", "ranges/plan.json")),
            f"{artifact.path.name}/weights.safetensors",
        ]
    )
    manifest = json.loads((artifact.path / "manifest.json").read_text())
    assert manifest["digest"] == artifact.digest
    assert set(manifest["files"]) == {"weights.safetensors", "ranges/plan.json"}
    assert manifest["files"]["ranges/plan.json"]["bytes"] == 14
    assert profiles.Profile.model_validate(manifest["profile"]).content() == PROFILE.content()
    assert artifact.summary()["digest"] == artifact.digest


def test_same_content_same_digest_whenever_wherever_and_on_whatever_device(tmp_path: Path) -> None:
    first = seal(Store(tmp_path / "one"), seconds={"train": 3.0})
    elsewhere = profiles.load("w4a6", device="cpu", overrides=["data.workers=3", "data.cache=/tmp/x"])
    second = seal(Store(tmp_path / "two"), profile=elsewhere)
    assert first.digest == second.digest
    assert first.manifest.record.created != second.manifest.record.created
    assert second.manifest.record.circumstances["overrides"] == ["data.workers=3", "data.cache=/tmp/x", "device=cpu"]


@pytest.mark.parametrize(
    "change",
    [
        {"metrics": {"nds": 0.5}},
        {"parents": {"float": "cd" * 32}},
        {"data": {"split": "x"}},
        {"notes": ("a note",)},
        {"packages": {"torch": "2"}},
        {"profile": profiles.load("w4a6", seed=1)},
        {"write": lambda folder: (folder / "other.json").write_text("{}")},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_content_other_digest(tmp_path: Path, change: dict[str, Any]) -> None:
    assert seal(Store(tmp_path / "one")).digest != seal(Store(tmp_path / "two"), **change).digest


def test_undefined_numbers_become_null_and_numpy_scalars_numbers(store: Store) -> None:
    artifact = seal(store, metrics={"mAVE": float("nan"), "per_class": {"car": np.float32(0.5)}, "n": np.int64(3)})
    assert artifact.manifest.metrics == {"mAVE": None, "per_class": {"car": 0.5}, "n": 3}


def test_the_first_one_wins(store: Store) -> None:
    first = seal(store)
    second = seal(store, metrics={"nds": 0.9})
    assert second.digest == first.digest
    assert len(store.folders()) == 1


def test_replace_puts_the_new_one_in_its_place(store: Store) -> None:
    seal(store)
    second = seal(store, metrics={"nds": 0.9}, replace=True)
    assert second.manifest.metrics == {"nds": 0.9}
    assert store.list() == [second]
    assert [path for path in store.root.iterdir() if path.name.startswith(".")] == []


def test_a_read_only_store_refuses_to_write(store: Store) -> None:
    artifact = seal(store)
    zoo = Store.zoo(store.root)
    assert zoo.open("qat:w4a6-nano").digest == artifact.digest
    with pytest.raises(StoreUnwritable, match="read-only"):
        seal(zoo, key=profiles.fingerprint("another"))


def test_a_zoo_folder_may_have_any_name(store: Store) -> None:
    artifact = seal(store)
    artifact.path.rename(store.root / "nano")
    assert Store.zoo(store.root).open("nano").digest == artifact.digest
    found = Store.zoo(store.root).find("qat", key=KEY)
    assert found is not None
    assert found.digest == artifact.digest


# -- finding -------------------------------------------------------------------------------------------------------


def test_found_by_key(store: Store) -> None:
    assert store.find("qat", key=KEY) is None
    artifact = seal(store)
    assert store.find("qat", key=KEY) == artifact
    assert store.find("vgd", key=KEY) is None
    assert store.find("qat", key=profiles.fingerprint("other")) is None


@pytest.mark.parametrize("form", ["path", "folder", "digest", "digest prefix", "key prefix", "kind:name"])
def test_opened_by_any_name(store: Store, form: str) -> None:
    artifact = seal(store)
    names = {
        "path": str(artifact.path),
        "folder": artifact.path.name,
        "digest": artifact.digest,
        "digest prefix": artifact.digest[:4],
        "key prefix": KEY[:8],
        "kind:name": "qat:w4a6-nano",
    }
    assert store.open(names[form]) == artifact


@pytest.mark.parametrize("name", ["nothing", "qat:w8a8-nano", "ab", "", "none/at/all", KEY[::-1]])
def test_a_name_nobody_has(store: Store, name: str) -> None:
    seal(store)
    with pytest.raises(
        MissingArtifact, match=r"there is no artifact .*(did you mean qat:w4a6-nano|`qdbev artifacts list` shows the 1)"
    ):
        store.open(name)


def test_an_ambiguous_prefix_lists_the_candidates(store: Store) -> None:
    for end in "01":
        seal(store, key=KEY[:-1] + end, profile=profiles.load(f"w{4 * (1 + int(end))}a{4 * (1 + int(end))}"))
    with pytest.raises(MissingArtifact, match=r"more than one artifact is called .*qat-w4a4-nano.*qat-w8a8-nano"):
        store.open(KEY[:10])


def test_kind_and_name_open_the_newest(store: Store) -> None:
    seal(store)
    newer = seal(store, key=profiles.fingerprint("newer"))
    assert store.open("qat:w4a6-nano") == newer
    assert store.list()[-1] == newer


def test_the_last_of_a_kind_profile_and_model(store: Store) -> None:
    assert store.last("qat") is None
    w4a6 = seal(store)
    w8a8 = seal(store, profile=profiles.load("w8a8"), key=profiles.fingerprint(8))
    tiny = seal(store, profile=profiles.load("w8a8", model="tiny"), key=profiles.fingerprint(9))
    assert store.last("qat") == store.last("qat", model="tiny") == tiny
    assert store.last("qat", profile="w8a8", model="nano") == w8a8
    assert store.last("qat", profile="w4a6") == w4a6
    assert store.last("qat", profile="w6a6") is None


def test_the_last_does_not_silently_skip_a_damaged_one(store: Store) -> None:
    seal(store)
    newer = seal(store, key=profiles.fingerprint("newer"))
    (newer.path / "manifest.json").write_text("{}")
    with pytest.raises(DamagedArtifact, match=newer.path.name):
        store.last("qat", profile="w4a6", model="nano")


def test_a_file_an_artifact_lacks_is_named(store: Store) -> None:
    artifact = seal(store)
    assert artifact.file("weights.safetensors").is_file()
    with pytest.raises(DamagedArtifact, match=r"a qat artifact should hold curve\.json"):
        artifact.file("curve.json")


def test_a_renamed_manifest_of_another_kind_is_not_found_under_the_old(store: Store) -> None:
    artifact = seal(store)
    other = Manifest(**(dict(artifact.manifest) | {"kind": "vgd", "record": Record(created="2026")}))
    (artifact.path / "manifest.json").write_bytes(other.to_bytes())
    with pytest.raises(DamagedArtifact, match="holds a vgd artifact"):
        store.find("qat", key=KEY)


def stamped(store: Store, artifact: Artifact, **changes: Any) -> Artifact:
    """The artifact with another record or version, resealed."""
    manifest = artifact.manifest.model_copy(update=changes)
    (artifact.path / "manifest.json").write_bytes(manifest.to_bytes())
    return Artifact(artifact.path, manifest)


@pytest.mark.parametrize("created", ["2999-01-01T00:00:00+00:00", "9999-12-31", "tomorrow", "", "\uffff"])
def test_one_from_the_future_does_not_stay_the_newest(store: Store, created: str) -> None:
    seal(store)
    odd = stamped(store, seal(store, key=profiles.fingerprint("odd")), record=Record(created=created))
    newest = seal(store, key=profiles.fingerprint("newest"))
    assert store.last("qat") == newest == store.open("qat:w4a6-nano")
    assert store.list()[0] == odd


def test_one_of_a_later_version_is_passed_over_by_age_and_refused_by_key(store: Store) -> None:
    older = seal(store)
    later = stamped(store, seal(store, key=profiles.fingerprint("later")), schema_version=2)
    assert store.last("qat", profile="w4a6", model="nano") == older
    with pytest.raises(DamagedArtifact, match="of a later version: it has schema version 2; this qdbev reads up to 1"):
        store.find("qat", key=later.manifest.key)


# -- scratch -------------------------------------------------------------------------------------------------------


def test_scratch_is_no_artifact_and_goes_when_its_stage_is_sealed(store: Store) -> None:
    folder = store.scratch("qat", key=KEY)
    (folder / "state.safetensors").write_bytes(b"half")
    assert store.scratch("qat", key=KEY) == folder
    assert store.folders() == store.list() == []
    other = store.scratch("vgd", key=KEY)
    seal(store)
    assert not folder.exists()
    assert other.exists()
    store.discard_scratch("vgd", key=KEY)
    store.discard_scratch("vgd", key=KEY)
    assert not other.exists()


def test_every_refusal_is_one_family() -> None:
    assert issubclass(UnusableInput, ValueError)
    assert all(issubclass(one, UnusableInput) for one in (MissingArtifact, DamagedArtifact, StoreUnwritable))
    assert sealing.StoreUnwritable is StoreUnwritable
