"""Damage is refused by name and no pickle is opened; safetensors are checked from their header alone."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

import profiles
from pipelines.integrity import UnusableInput, check_safetensors, list_files, reading_data, seal_of
from pipelines.store import Artifact, DamagedArtifact, Store

TENSORS = {
    "x.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "y": np.zeros((0, 4), np.int8),
    "z": np.ones(3, bool),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "t.safetensors", metadata={"format": "pt"})
    return tmp_path / "t.safetensors"


def test_a_sound_file_passes(path: Path) -> None:
    check_safetensors(path)


def test_an_empty_set_of_tensors_passes(tmp_path: Path) -> None:
    save_file({}, tmp_path / "t.safetensors")
    check_safetensors(tmp_path / "t.safetensors")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.integers(0, 10_000))
def test_a_cut_file_never_passes(path: Path, length: int) -> None:
    sound = path.read_bytes()
    cut = path.with_name("cut.safetensors")
    cut.write_bytes(sound[: length % len(sound)])
    with pytest.raises(ValueError):
        check_safetensors(cut)
    with pytest.raises(SafetensorError), safe_open(cut, framework="numpy"):
        pass


def test_bytes_beyond_the_tensors_do_not_pass(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ValueError, match="bytes that belong to no tensor"):
        check_safetensors(path)


def test_a_shape_that_does_not_fit_names_the_tensor(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"[2,3]", b"[2,4]"))
    with pytest.raises(ValueError, match=r"tensor x\.weight does not fit its announced shape"):
        check_safetensors(path)


def test_seal_of_known_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    sealed = seal_of(tmp_path / "x")
    assert sealed.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180, appendix B.1
    assert sealed.bytes == 3


def test_files_are_listed_by_path_inside_the_folder(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").write_text("")
    (tmp_path / "a").write_text("")
    (tmp_path / "empty").mkdir()
    assert list_files(tmp_path) == ["a", "b/c"]


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


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(data=st.data())
def test_one_flipped_bit_anywhere_is_refused_by_name(tmp_path: Path, data: st.DataObject) -> None:
    store = Store(tmp_path)
    artifact = store.find("qat", key=KEY) or seal(store)
    path = data.draw(st.sampled_from(sorted(path for path in artifact.path.rglob("*") if path.is_file())))
    sound = path.read_bytes()
    place, bit = data.draw(st.integers(0, len(sound) - 1)), data.draw(st.integers(0, 7))
    path.write_bytes(sound[:place] + bytes([sound[place] ^ (1 << bit)]) + sound[place + 1 :])
    try:
        with pytest.raises(DamagedArtifact) as caught:
            store.find("qat", key=KEY)
    finally:
        path.write_bytes(sound)
    assert artifact.path.name in str(caught.value)
    assert path.name in str(caught.value)


@pytest.mark.parametrize("name", ["weights.safetensors", "ranges/plan.json", "manifest.json"])
def test_a_missing_file_is_refused_by_name(store: Store, name: str) -> None:
    artifact = seal(store)
    (artifact.path / name).unlink()
    for opening in (lambda: store.find("qat", key=KEY), lambda: store.open(artifact.path.name)):
        with pytest.raises(DamagedArtifact, match=f"{artifact.path.name} is refused.*{name} is missing"):
            opening()


def test_a_file_that_does_not_belong_is_refused(store: Store) -> None:
    artifact = seal(store)
    (artifact.path / "ranges" / "more.json").write_text("{}")
    with pytest.raises(DamagedArtifact, match=r"ranges/more\.json does not belong to it"):
        store.verify(artifact)


def test_a_link_is_refused(store: Store) -> None:
    artifact = seal(store)
    path = artifact.path / "weights.safetensors"
    path.rename(store.root / "moved")
    path.symlink_to(store.root / "moved")
    with pytest.raises(DamagedArtifact, match=r"weights\.safetensors is not a plain file"):
        store.verify(artifact)


def test_a_truncated_tensor_is_refused_by_name(store: Store) -> None:
    artifact = seal(store)
    path = artifact.path / "weights.safetensors"
    sound = path.read_bytes()
    path.write_bytes(sound[:-1])  # tensor b, 12 bytes of float16, is written last
    with pytest.raises(DamagedArtifact, match=r"weights\.safetensors has \d+ bytes, \d+ were sealed: tensor b is cut"):
        store.verify(artifact)
    path.write_bytes(sound[: -12 - 1])
    with pytest.raises(DamagedArtifact, match="tensor a is cut"):
        store.verify(artifact)
    path.write_bytes(sound[:20])
    with pytest.raises(DamagedArtifact, match="its header is cut"):
        store.verify(artifact)


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("name", ["weights.pth", "weights.pkl", "state.PT", "ranges/w.npy"])
def test_a_pickle_is_refused_and_never_executed(store: Store, tmp_path: Path, name: str) -> None:
    exploded = tmp_path / "exploded"
    bomb = pickle.dumps(Bomb(exploded))
    artifact = seal(store)
    (artifact.path / name).write_bytes(bomb)
    sealed = {**artifact.manifest.files, name: seal_of(artifact.path / name)}
    lying = artifact.manifest.model_copy(update={"files": sealed})
    (artifact.path / "manifest.json").write_bytes(lying.to_bytes())  # a manifest that vouches for it
    with pytest.raises(DamagedArtifact, match=f"{name} is of a pickle format, which an artifact never holds"):
        store.open(artifact.path.name)
    assert not exploded.exists()


def test_a_pickle_called_safetensors_is_refused_and_never_executed(store: Store, tmp_path: Path) -> None:
    exploded = tmp_path / "exploded"
    artifact = seal(store)
    (artifact.path / "weights.safetensors").write_bytes(pickle.dumps(Bomb(exploded)))
    with pytest.raises(DamagedArtifact, match=r"weights\.safetensors"):
        store.verify(artifact)
    assert not exploded.exists()


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{", "{}", '{"kind": "qat"}', "[" * 100_000, '{"schema_version": 99}']
)
def test_a_manifest_that_is_none(store: Store, text: str) -> None:
    artifact = seal(store)
    (artifact.path / "manifest.json").write_text(text)
    with pytest.raises(DamagedArtifact, match=r"manifest\.json"):
        store.open(artifact.path.name)


@pytest.mark.parametrize("error", [ValueError("sample.json is damaged"), FileNotFoundError("no sample.json")])
def test_what_is_wrong_with_data_is_unusable_input(error: Exception) -> None:
    with pytest.raises(UnusableInput, match=r"sample\.json"), reading_data():
        raise error
    with pytest.raises(KeyError), reading_data():
        raise KeyError("a bug stays a bug")
