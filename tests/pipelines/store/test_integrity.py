"""Damage is refused by name and no pickle is opened; safetensors are checked from their header alone.

Damaged data and resume state are refused alike, wherever they are met; errors of a model keep their own type.
"""

from __future__ import annotations

import os
import pickle
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn

import profiles
from pipelines.assembly.job import Job
from pipelines.assembly.samples import Split, load_split
from pipelines.scoring.prediction import evaluation_batches, predict
from pipelines.store.artifacts import Artifact, DamagedArtifact, Store
from pipelines.store.integrity import UnusableInput, fetched, list_files, reading_data, seal_of
from pipelines.store.tensors import check_safetensors
from pipelines.training.run import Training, run_training

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


WORKER_SAID = """Caught ValueError in DataLoader worker process 3.
Original Traceback (most recent call last):
  File "fetch.py", line 54, in fetch
    data = [self.dataset[idx] for idx in possibly_batched_index]
ValueError: camera image a.jpg is truncated
"""


def test_what_a_loading_process_says_is_cut_to_its_own_sentence() -> None:
    with pytest.raises(UnusableInput, match=r"^camera image a\.jpg is truncated$"), reading_data():
        raise ValueError(WORKER_SAID)


def test_only_the_fetching_of_a_batch_is_reading_of_data() -> None:
    def batches() -> Iterator[int]:
        yield from (1, 2)
        raise ValueError("file is cut")

    seen = []
    with pytest.raises(UnusableInput, match="file is cut"):
        for batch in fetched(batches()):
            seen.append(batch)
    assert seen == [1, 2] and list(fetched([])) == []
    with pytest.raises(ValueError, match="model") as caught:
        for _ in fetched([1]):
            raise ValueError("model")
    assert not isinstance(caught.value, UnusableInput)


SMALL = ["data.train_scenes=1", "data.val_scenes=1", "data.key_frames=2", "qat.batch_size=1"]


@pytest.fixture
def split(tmp_path: Path) -> Split:
    """Two key frames of one scene in a folder that a test may damage."""
    own = load_split(profiles.load("w4a6", overrides=SMALL).data, name="train")
    shutil.copytree(own.root, tmp_path / "tree")
    return replace(own, root=tmp_path / "tree")


def _cut(data: bytes) -> bytes:
    return data[:-9]


def _claim_to_be_huge(data: bytes) -> bytes:
    size = data.index(b"\xff\xc0") + 5  # height and width in a JPEG's start of frame
    return data[:size] + struct.pack(">HH", 65000, 65000) + data[size + 4 :]


@pytest.fixture
def damaged(split: Split, request: pytest.FixtureRequest) -> Path:
    image = split.samples[-1]["images"]["CAM_BACK"]["img_path"]
    path: Path = split.root / image
    path.write_bytes(request.param(path.read_bytes()))
    return path


def train_two_steps(split: Split, *, scratch: Path, fails: bool = False, overrides: tuple[str, ...] = ()) -> None:
    """Train two numbers on nothing but how often batches came."""
    profile = profiles.load("w4a6", overrides=[*SMALL, *overrides], device="cpu")
    model = nn.ModuleDict({"img_backbone": nn.Linear(1, 1)})

    def loss(batch: Any, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        if fails:
            raise ValueError("the model is at fault")
        return sum((value.square().sum() for value in model.parameters()), torch.zeros(())), {}

    training = Training(profile.qat, steps=2, kind="test", key="k", label="test", freeze_batchnorm=False)
    run_training(model, job=Job(profile, Store(scratch)), training=training, loss=loss, split=split)


@pytest.mark.parametrize("damaged", [_cut, _claim_to_be_huge], indirect=True)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_camera_file_is_unusable_input_in_scoring(split: Split, damaged: Path, workers: int) -> None:
    profile = profiles.load("w4a6", overrides=[*SMALL, f"data.workers={workers}"])
    with pytest.raises(UnusableInput, match=r"^camera image .* is truncated or not an image; [^\n]*$") as caught:
        list(evaluation_batches(split, job=Job(profile, Store("nowhere"))))
    assert str(damaged) in str(caught.value)


@pytest.mark.parametrize("damaged", [_cut], indirect=True)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_camera_file_is_unusable_input_in_training(
    split: Split, damaged: Path, tmp_path: Path, workers: int
) -> None:
    with pytest.raises(UnusableInput, match=r"^camera image .* is truncated or not an image; [^\n]*$") as caught:
        train_two_steps(split, scratch=tmp_path / "scratch", overrides=(f"data.workers={workers}",))
    assert str(damaged) in str(caught.value)


class _Broken(nn.Module):
    """A detector at fault."""

    def __init__(self) -> None:
        super().__init__()
        self.history = type("History", (), {"reset": lambda self: None})()

    def forward(self, *arguments: Any, **keywords: Any) -> None:
        raise ValueError("the model is at fault")

    detections = forward


def test_errors_of_the_model_are_not_renamed(split: Split, tmp_path: Path) -> None:
    model: Any = _Broken()
    with pytest.raises(ValueError, match="the model is at fault") as scoring:
        predict(model, split=split, job=Job(profiles.load("w4a6", overrides=SMALL, device="cpu"), Store(tmp_path)))
    with pytest.raises(ValueError, match="the model is at fault") as training:
        train_two_steps(split, scratch=tmp_path / "scratch", fails=True)
    assert not isinstance(scoring.value, UnusableInput) and not isinstance(training.value, UnusableInput)


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "digests.json"])
def test_a_damaged_resume_state_is_unusable_input(split: Split, tmp_path: Path, name: str) -> None:
    train_two_steps(split, scratch=tmp_path / "scratch")
    path = next((tmp_path / "scratch").glob(f".scratch/test-k/state-*/{name}"))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(
        UnusableInput, match=r"^resume state .*scratch/.scratch/test-k/state-.* is damaged .* delete that folder"
    ):
        train_two_steps(split, scratch=tmp_path / "scratch")


# -- seals that fit and contents that cannot be, manifests that are no files -----------------------------------------


def reseal(artifact: Artifact) -> None:
    """Let the manifest state the files as they are, as somebody would who wants them to pass."""
    files = {name: seal_of(artifact.path / name) for name in artifact.manifest.files}
    manifest = artifact.manifest.model_copy(update={"files": files})
    (artifact.path / "manifest.json").write_bytes(manifest.to_bytes())


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a": np.array([np.nan], np.float32)}, r"weights\.safetensors cannot be right: tensor a holds numbers that"),
        ({"a_packed": np.zeros(3, np.uint8)}, "packed weight a lacks"),
        ({"bn.running_var": np.array([-1.0])}, "a variance of -1"),
    ],
)
def test_a_resealed_lie_is_found(store: Store, tensors: dict[str, Any], message: str) -> None:
    artifact = seal(store)
    save_file(tensors, artifact.path / "weights.safetensors")
    reseal(artifact)
    with pytest.raises(DamagedArtifact, match=f"{artifact.path.name} is refused: .*{message}"):
        store.find("qat", key=KEY)


def test_a_resealed_header_that_lies_is_found(store: Store) -> None:
    artifact = seal(store)
    path = artifact.path / "weights.safetensors"
    path.write_bytes(path.read_bytes().replace(b"[2,3]", b"[3,3]"))
    reseal(artifact)
    with pytest.raises(DamagedArtifact, match="does not fit its announced shape"):
        store.open(artifact.path)


def as_pipe(path: Path) -> None:
    os.mkfifo(path)


def as_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def as_link(path: Path) -> None:
    path.with_name(".sealed").rename(path.parent.parent / "elsewhere.json")
    path.symlink_to(path.parent.parent / "elsewhere.json")


def as_huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a hole: no disk is taken


def as_folder(path: Path) -> None:
    path.mkdir()


def as_deep(path: Path) -> None:
    path.write_bytes(b"[" * 1_000_000)


@pytest.mark.parametrize("become", [as_pipe, as_device, as_link, as_huge, as_folder, as_deep])
def test_a_manifest_that_is_no_plain_file_is_refused_unread(store: Store, become: Callable[[Path], None]) -> None:
    artifact = seal(store)
    manifest = artifact.path / "manifest.json"
    manifest.rename(manifest.with_name(".sealed"))
    become(manifest)
    assert store.list() == []
    with pytest.raises(DamagedArtifact, match=f"{artifact.path.name}.*manifest.json"):
        store.find("qat", key=KEY)
    with pytest.raises(DamagedArtifact, match=artifact.path.name):
        store.open(artifact.path.name)
