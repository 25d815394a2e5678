"""What other programs wrote around weights is taken where there is one reading; else what lies where is said."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pipelines.assembly.checkpoint import Checkpoint, read_checkpoint
from pipelines.store.integrity import UnusableInput

NAMES = ("neck.weight", "neck.bias", "head.weight", "head.steps")
STATE = {name: torch.arange(6.0).reshape(2, 3) + index for index, name in enumerate(NAMES)}
STATE["head.steps"] = torch.tensor(7)
OTHER = {name: tensor + 1 for name, tensor in STATE.items()}
PART = {"weight": torch.ones(1)}


def read(content: Any, folder: Path, *, wanted: tuple[str, ...] = NAMES, **options: Any) -> Checkpoint:
    torch.save(content, folder / "file.pth", **options)
    return read_checkpoint(folder / "file.pth", wanted=wanted)


def before(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def is_state(checkpoint: Checkpoint) -> bool:
    same = [torch.equal(tensor, STATE[name]) for name, tensor in checkpoint.state.items()]
    return list(checkpoint.state) == list(STATE) and all(same)


TAKEN: dict[str, tuple[Any, tuple[str, ...]]] = {
    "state_dict": ({"state_dict": STATE, "epoch": 3}, ()),
    "model": ({"model": STATE}, ("the weights are taken from model",)),
    "net": ({"net": STATE, "acc": 0.5}, ("the weights are taken from net",)),
    "model_state_dict": (
        {"epoch": 1, "model_state_dict": STATE, "optimizer_state_dict": {"state": {0: {"exp_avg": torch.ones(2)}}}},
        ("the weights are taken from model_state_dict",),
    ),
    "containers in containers": ({"checkpoint": {"model": STATE}}, ("the weights are taken from checkpoint.model",)),
    "a list": ([STATE, {"lr": 0.1}], ("the weights are taken from 0",)),
    "a second copy beside": (
        {"state_dict": STATE, "state_dict_ema": OTHER},
        ("left out, a second copy: state_dict_ema (4 tensors)",),
    ),
    "a second copy in model_ema": (
        {"model": STATE, "model_ema": {"module": OTHER, "decay": 0.9}},
        ("the weights are taken from model", "left out, a second copy: model_ema.module (4 tensors)"),
    ),
    "only the averaged ones": ({"state_dict_ema": STATE}, ("the weights are taken from state_dict_ema",)),
    "a loss beside": (
        {"state_dict": STATE, "criterion": PART},
        ("left out, not the weights: criterion (1 tensor)",),
    ),
    "a tensor beside": (
        {"state_dict": STATE, "best": torch.ones(1)},
        ("left out, not the weights: beside them (1 tensor)",),
    ),
    "teacher of other names": (
        {"student": STATE, "teacher": before("big.", OTHER)},
        ("the weights are taken from student", "left out, not the weights: teacher (4 tensors)"),
    ),
    "parallel": (before("module.", STATE), ("module. taken off 4 names: saved from a parallel wrapper",)),
    "Lightning": (
        {"state_dict": before("model.", STATE), "pytorch-lightning_version": "2.1", "loops": {"fit": PART}},
        ("model. taken off 4 names: saved from a model that holds the detector",),
    ),
    "Lightning with a loss": (
        {"state_dict": {**before("model.", STATE), "loss.weight": torch.ones(2)}},
        (
            "model. taken off 4 names: saved from a model that holds the detector",
            "1 tensor beside model.* left out: loss",
        ),
    ),
    "Lightning with a second copy": (
        {"state_dict": {**before("model.", STATE), **before("model_ema.", OTHER)}},
        (
            "4 tensors model_ema.* left out: a training hook's second copy",
            "model. taken off 4 names: saved from a model that holds the detector",
        ),
    ),
    "compiled": (before("_orig_mod.", STATE), ("what torch's wrappers insert taken out of 4 names",)),
    "a compiled part": (
        {name.replace("neck.", "neck._orig_mod."): tensor for name, tensor in STATE.items()},
        ("what torch's wrappers insert taken out of 2 names",),
    ),
    "compiled and parallel": (
        {"model": before("module._orig_mod.", STATE)},
        (
            "the weights are taken from model",
            "what torch's wrappers insert taken out of 4 names",
            "module. taken off 4 names: saved from a parallel wrapper",
        ),
    ),
    "averaged by torch": (
        {"n_averaged": torch.tensor(3), **before("module.", STATE)},
        (
            "1 tensor n_averaged.* left out: a training hook's second copy",
            "module. taken off 4 names: saved from a parallel wrapper",
        ),
    ),
    "numpy": ({name: tensor.numpy() for name, tensor in STATE.items()}, ()),
    "numpy, columns first": (
        {"model": {name: np.array(tensor.numpy(), order="F") for name, tensor in STATE.items()}},
        ("the weights are taken from model",),
    ),
    "numpy, bytes swapped": (
        {name: tensor.numpy().astype(tensor.numpy().dtype.newbyteorder(">")) for name, tensor in STATE.items()},
        (),
    ),
}


@pytest.mark.parametrize("name", TAKEN)
def test_one_reading_is_taken_and_said(tmp_path: Path, name: str) -> None:
    content, said = TAKEN[name]
    checkpoint = read(content, tmp_path)
    assert (is_state(checkpoint), checkpoint.changes) == (True, said)


@pytest.mark.parametrize("name", ["weights.pth", "weights.bin", "weights", "weights.safetensors"])
def test_safetensors_go_by_their_bytes_not_their_name(tmp_path: Path, name: str) -> None:
    save_file(STATE, tmp_path / name)
    assert read_checkpoint(tmp_path / name, wanted=NAMES).state.keys() == STATE.keys()


def test_a_prefix_that_is_the_models_own_stays(tmp_path: Path) -> None:
    own = before("model.", STATE) | before("ema_", STATE)
    checkpoint = read(own, tmp_path, wanted=tuple(own))
    assert (checkpoint.state.keys(), checkpoint.changes) == (own.keys(), ())


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"model": STATE, "teacher": OTHER}, "which are meant is not clear: model (4 tensors), teacher (4 tensors)"),
        ({"state_dict": STATE, "net": OTHER}, "state_dict (4 tensors), net (4 tensors)"),
        ({"backbone": before("a.", PART), "head": before("b.", PART)}, "backbone (1 tensor), head (1 tensor)"),
        ({**STATE, "module.neck.weight": PART, "_orig_mod.neck.weight": STATE["neck.weight"]}, "neck.weight twice"),
        ({"epoch": 3, "model": "resnet"}, "holds a dict of 2 entries (epoch, model), not tensors by name"),
        ({}, "holds an empty dict"),
        (torch.ones(3), "holds a Tensor, not tensors by name"),
    ],
)
def test_what_is_not_clear_is_told(tmp_path: Path, content: Any, sentence: str) -> None:
    with pytest.raises(UnusableInput) as caught:
        read(content, tmp_path)
    assert sentence in str(caught.value)


def odd(make: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    return {**STATE, "head.weight": make(STATE["head.weight"])}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (odd(lambda _: torch.zeros(1).as_strided((10**6, 10**6), (0, 0))), "of 4000000000000 bytes in a file of"),
        (odd(lambda _: torch.zeros(1).expand(10**9)), "of 4000000000 bytes in a file of"),
        (odd(lambda tensor: tensor.to("meta")), "on the device meta, without numbers"),
        (odd(lambda tensor: tensor.to_sparse()), "of layout sparse_coo"),
        (odd(lambda tensor: tensor.to_sparse_csr()), "of layout sparse_csr"),
        (odd(lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)), "of qint8, quantized already"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_tensor_that_is_not_plain_is_refused_by_name(tmp_path: Path, content: Any, sentence: str) -> None:
    with pytest.raises(UnusableInput, match=r"head\.weight is a tensor") as caught:
        read(content, tmp_path)
    assert sentence in str(caught.value)


def test_a_few_numbers_that_share_one_place_are_numbers(tmp_path: Path) -> None:
    content = odd(lambda _: torch.ones(1).expand(2, 3))
    assert torch.equal(read(content, tmp_path).state["head.weight"], torch.ones(2, 3))


def test_an_array_of_objects_is_no_tensor(tmp_path: Path) -> None:
    content = {name: tensor.numpy() for name, tensor in STATE.items()}
    content["head.weight"] = np.array([None, {"a": 1}], dtype=object)
    assert "head.weight" not in read(content, tmp_path).state


@pytest.mark.parametrize("name", ["archive/data.pkl", "archive/data/0"])
def test_a_zip_bomb_is_refused_by_its_directory(tmp_path: Path, name: str) -> None:
    torch.save(STATE, tmp_path / "bomb.pth")
    with zipfile.ZipFile(tmp_path / "bomb.pth", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{name}.more", bytes(50 * 2**20))
    with pytest.raises(UnusableInput, match=r"it has \d+ bytes and announces 5\d{7}; torch.save never compresses"):
        read_checkpoint(tmp_path / "bomb.pth")


def test_a_header_that_lies_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(
        struct.pack("<Q", 40) + b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4]}}'
    )
    with pytest.raises(UnusableInput, match="cannot be read as plain tensors"):
        read_checkpoint(tmp_path / "a.pth")


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "zero.pth").symlink_to("/dev/zero")
    with pytest.raises(UnusableInput, match="is no file that can be read"):
        read_checkpoint(tmp_path / "zero.pth")


def test_bytes_that_are_not_what_their_checksum_says_are_refused(tmp_path: Path) -> None:
    assert is_state(read(STATE, tmp_path))
    path = tmp_path / "file.pth"
    raw = path.read_bytes()
    place = raw.index(np.arange(6, dtype=np.float32).tobytes())
    path.write_bytes(raw[:place] + b"\1" + raw[place + 1 :])
    with pytest.raises(UnusableInput, match=r"is damaged: 1 of its \d+ parts are not what their checksums say"):
        read_checkpoint(path, wanted=NAMES)


def test_files_without_checksums_are_read(tmp_path: Path) -> None:
    usual = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        assert is_state(read(STATE, tmp_path))
    finally:
        torch.serialization.set_crc32_options(usual)
