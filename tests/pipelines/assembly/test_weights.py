"""Weights and devices: what does not fit is said in one sentence, and the profile decides what the loss weighs."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import profiles
from pipelines.assembly.detector import build_detector
from pipelines.assembly.job import Job
from pipelines.assembly.quantized import load_quantized, quantized_from_float, with_quantizers, write_quantized
from pipelines.assembly.samples import load_split
from pipelines.assembly.strict_loading import load_strictly
from pipelines.assembly.weights import float_artifact, float_detector
from pipelines.lineage.kinds import WEIGHTS
from pipelines.lineage.stated import shipped_weights
from pipelines.store.artifacts import Store
from pipelines.store.integrity import UnusableInput
from qdbev.quantization import Folding

CODE_WEIGHTS = [1, 1, 1, 1, 1, 1, 3, 3, 0.125, 0.125]
SMALL = ["data.train_scenes=1", "data.val_scenes=1", "data.key_frames=2"]


def sentence_of(caught: pytest.ExceptionInfo[ValueError]) -> str:
    text = str(caught.value)
    assert text and "\n" not in text
    return text


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, (f"touch {self.path}",)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def write_cut_safetensors(path: Path) -> None:
    save_file({"a": torch.ones(9)}, path)
    cut(path)


def write_cut_pickle(path: Path) -> None:
    torch.save({"a": torch.ones(9)}, path)
    cut(path)


FOREIGN: dict[str, Callable[[Path], object]] = {
    "cut.safetensors": write_cut_safetensors,
    "pickled.safetensors": lambda path: path.write_bytes(pickle.dumps(Bomb(path.parent / "exploded"))),
    "cut.pth": write_cut_pickle,
    "empty.pth": lambda path: path.write_bytes(b""),
    "words.pth": lambda path: path.write_text("hello"),
    "folder.pth": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
    "circle": lambda path: path.symlink_to(path),
    "list.pth": lambda path: torch.save([torch.ones(9)], path),
    "nested.pth": lambda path: torch.save({"state_dict": [torch.ones(9)]}, path),
    "bomb.pth": lambda path: torch.save({"a": Bomb(path.parent / "exploded")}, path),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_file_that_holds_no_weights_is_unusable_and_named(tmp_path: Path, name: str) -> None:
    FOREIGN[name](tmp_path / name)
    profile = profiles.load("w4a6", overrides=[f"model.weights={tmp_path / name}"])
    with pytest.raises(UnusableInput) as caught:
        float_artifact(Job(profile, Store(tmp_path / "runs")))
    assert str(tmp_path / name) in sentence_of(caught)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("key", ["a", 1])
def test_weights_of_another_model_do_not_fit(tmp_path: Path, key: object) -> None:
    torch.save({key: torch.ones(9)}, tmp_path / "other.pth")
    profile = profiles.load("w4a6", overrides=[f"model.weights={tmp_path / 'other.pth'}"])
    with pytest.raises(ValueError, match=r"other\.pth does not fit this model: tensors \d+ missing \(") as caught:
        float_artifact(Job(profile, Store(tmp_path / "runs")))
    assert len(sentence_of(caught)) < 800


def test_a_misfit_counts_all_tensors_and_names_a_few() -> None:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(4)))
    state = {"0.weight": torch.ones(2, 3), "0.bias": torch.ones(2), "x": torch.ones(1)}
    with pytest.raises(ValueError) as caught:
        load_strictly(model, state=state, origin="a.pth")
    assert sentence_of(caught) == (
        "a.pth does not fit this model: tensors 6 missing (1.bias, 1.weight, ...); "
        "1 unknown (x); 1 of another shape (0.weight is 2x3 not 2x2); check --model"
    )


class _Picky(nn.Module):
    """Refuses every state, as a quantizer refuses one of other bits."""

    def _load_from_state_dict(self, *arguments: Any) -> None:
        arguments[-1].append(f"{arguments[1]} is 4 bits but was saved with 8")


@pytest.mark.parametrize(
    ("model", "state", "said"),
    [
        (nn.Linear(2, 2, bias=False), {"weight": torch.ones(2, 2, device="meta")}, "Cannot copy out of meta tensor"),
        (
            nn.Sequential(*(_Picky() for _ in range(5))),
            {},
            "m.pth does not fit this model: 0. is 4 bits but was saved with 8; 1. is 4 bits but was saved with 8; "
            "2. is 4 bits but was saved with 8; and 2 more",
        ),
    ],
)
def test_what_torch_refuses_while_loading_is_one_sentence(model: nn.Module, state: Any, said: str) -> None:
    with pytest.raises(ValueError) as caught:
        load_strictly(model, state=state, origin="m.pth")
    assert said in sentence_of(caught)


def test_the_profile_weighs_the_box_code_of_the_float_and_the_quantized_detector(tmp_path: Path) -> None:
    profile = profiles.load("w4a6", overrides=[*SMALL, f"model.head.code_weights={CODE_WEIGHTS}"])
    detector, artifact = float_detector(Job(profile, Store(tmp_path / "runs")))
    own = shipped_weights("nano")
    assert own is not None and artifact.digest == own.digest  # the weights are the shipped ones ...
    shipped, state = load_file(own.file(WEIGHTS)), detector.state_dict()
    assert [name for name in shipped if not torch.equal(state[name], shipped[name])] == ["pts_bbox_head.code_weights"]
    assert detector.pts_bbox_head.code_weights.tolist() == CODE_WEIGHTS  # ... but for those of the loss
    assert not detector.pts_bbox_head.code_weights.requires_grad

    quantized = quantized_from_float(detector, profile=profile, split=load_split(profile.data, name="train"))
    write_quantized(tmp_path, quantized=quantized, profile=profile)
    made: Any = SimpleNamespace(path=tmp_path, file=lambda name: tmp_path / name)
    student = load_quantized(made, profile=profile, latent=True).detector
    assert student.pts_bbox_head.code_weights.tolist() == CODE_WEIGHTS


def test_a_detector_of_which_nothing_would_be_quantized_is_refused() -> None:
    profile = profiles.load("w4a6", overrides=["quantization.float_layers=['*']"])
    with pytest.raises(ValueError, match=r"no layer is quantized: all stay in float .*float_layers"):
        with_quantizers(build_detector(profile.model), Folding((), {}), profile=profile)


def test_taps_on_what_folding_changes_are_refused() -> None:
    profile = profiles.load("w4a6", overrides=SMALL)
    split = load_split(profile.data, name="train")
    for path, refused in (("img_backbone.bn1", False), ("img_backbone.conv1", True)):
        detector: Any = build_detector(profile.model).eval()
        detector.stated_taps = {"image": path, "bev": None}
        if not refused:
            quantized_from_float(detector, profile=profile, split=split)
            continue
        with pytest.raises(ValueError, match=rf"taps\.image is {path}, whose output changes .* name that norm"):
            quantized_from_float(detector, profile=profile, split=split)
