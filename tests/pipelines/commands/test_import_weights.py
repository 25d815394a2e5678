"""import-weights: what published and own checkpoints look like, and what is refused, through the shell."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

import profiles
from pipelines.assembly.detector import build_detector
from pipelines.assembly.job import Job
from pipelines.assembly.weights import float_detector
from pipelines.lineage.kinds import WEIGHTS
from pipelines.lineage.stated import stated_weights
from pipelines.store.artifacts import Store
from qdbev.data.nuscenes.layout import CLASSES
from qdbev_cli.app import app

State = dict[str, Tensor]
NANO = ["--model", "nano", "--set", "model.weights=null"]  # nano as if it were not shipped
A_WEIGHT = "pts_bbox_head.transformer.reference_points.weight"


@pytest.fixture(scope="module")
def state() -> State:
    """Random weights of nano under the official names."""
    torch.manual_seed(5)
    detector = build_detector(profiles.load("float").model)
    return {
        name: torch.rand(one.shape) if one.is_floating_point() else one for name, one in detector.state_dict().items()
    }


def as_published(state: State) -> dict[str, Any]:
    """What mmcv's runner saves: meta, weights, the optimiser's state."""
    meta = {
        "env_info": "sys.platform: linux",
        "epoch": 24,
        "iter": 28130,
        "config": "bev_h_ = 50",
        "CLASSES": list(CLASSES),
    }
    optimizer = {"state": {0: {"step": 1, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 2e-4, "params": [0]}]}
    return {"meta": meta, "state_dict": OrderedDict(state), "optimizer": optimizer}


def as_exported(state: State) -> dict[str, Any]:
    """What mmengine's runner saves: a training log of its own classes and numpy numbers comes with it."""
    hub = MessageHub.get_instance("test_import_weights")
    hub.update_scalar("train/loss", np.float32(1.5))
    hub.update_info("iter", np.int64(7))
    meta = {"dataset_meta": {"classes": list(CLASSES), "palette": np.ones((2, 3))}, "mmengine_version": "0.10.7"}
    average = {"steps": torch.tensor(3)} | {f"module.{name}": one + 1 for name, one in state.items()}
    return as_published(state) | {"meta": meta, "message_hub": hub.state_dict(), "ema_state_dict": average}


def with_second_copy(state: State) -> dict[str, Any]:
    copies = {f"ema_{name.replace('.', '_')}": one + 1 for name, one in state.items()}
    return as_published({**state, **copies})


def halves(state: State, kind: torch.dtype) -> State:
    return {name: one.to(kind) if one.is_floating_point() else one for name, one in state.items()}


def saved(content: Any, path: Path, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def call(file: Path, store: Path, *words: str, code: int = 0) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["import-weights", str(file), "--store", str(store), "--json", *NANO, *words])
    assert result.exit_code == code, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def weights(outcome: dict[str, Any]) -> State:
    found: State = load_file(Path(outcome["artifact"]["path"]) / WEIGHTS)
    return found


def equal(found: State, expected: State) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(one, expected[name]) for name, one in found.items())


# -- what goes in --------------------------------------------------------------------------------------------------


def test_a_published_file_is_sealed_and_found_by_the_model_alone(state: State, tmp_path: Path) -> None:
    file, runs = saved(as_published(state), tmp_path / "bevformer_nano.pth"), tmp_path / "runs"
    made = call(file, runs)
    assert equal(weights(made), state)
    [rows] = [table["rows"] for table in made["tables"]]
    assert rows[-1] == ["all", len(state), sum(one.numel() for one in state.values())]
    assert made["messages"] == [
        "imported from bevformer_nano.pth",
        "--model nano means these weights from now on; next: qdbev evaluate --profile float --model nano "
        f"--set data.source=FOLDER --store {runs}",
    ]
    file.unlink()
    profile = profiles.load("w4a6", overrides=["model.weights=null"])
    detector, artifact = float_detector(Job(profile, Store(runs)))
    assert artifact.digest == made["artifact"]["digest"] == stated_weights(profile, store=Store(runs))
    assert torch.equal(detector.state_dict()[A_WEIGHT], state[A_WEIGHT])
    named = profiles.load("w4a6", overrides=["model.weights=float:float-nano"])
    assert float_detector(Job(named, Store(runs)))[1].digest == artifact.digest


@pytest.mark.slow
def test_the_official_names_and_shapes_of_tiny(shared: Path, tmp_path: Path) -> None:
    shapes = json.loads((shared / "reference" / "bevformer_keys_tiny.json").read_text())
    generator = torch.Generator().manual_seed(0)
    official = {name: torch.rand(size, generator=generator) for name, size in shapes.items()}
    official |= {name: torch.tensor(0) for name in shapes if name.endswith("num_batches_tracked")}
    file = saved(as_published(official), tmp_path / "bevformer_tiny_epoch_24.pth")
    made = call(file, tmp_path / "runs", "--model", "tiny")
    assert made["tables"][0]["rows"][-1] == ["all", 643, 33_574_330]  # specification, section 1
    assert equal(weights(made), official)


VARIANTS: dict[str, tuple[Callable[[State, Path], object], str | None]] = {
    "alone.pth": (saved, None),
    "tensors.safetensors": (lambda state, path: save_file(state, path), None),
    "no ending": (saved, None),
    "legacy.pth": (lambda state, path: saved(state, path, _use_new_zipfile_serialization=False), None),
    "mmengine.pth": (
        lambda state, path: saved(as_exported(state), path),
        "left out, a second copy: ema_state_dict (280 tensors)",
    ),
    "parallel.pth": (
        lambda state, path: saved(as_published({f"module.{name}": one for name, one in state.items()}), path),
        "module. taken off 279 names: saved from a parallel wrapper",
    ),
    "averaged.pth": (
        lambda state, path: saved(with_second_copy(state), path),
        "279 tensors ema_* left out: a training hook's second copy",
    ),
    "double.pth": (
        lambda state, path: saved(halves(state, torch.float64), path),
        "264 tensors of float64 became float32",
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_same_weights_from_every_kind_of_file(state: State, tmp_path: Path, name: str) -> None:
    write, said = VARIANTS[name]
    write(state, tmp_path / name)
    made = call(tmp_path / name, tmp_path / "runs")
    assert equal(weights(made), state)
    assert made["messages"][1:-1] == ([said] if said else [])


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["half.pth", "half.safetensors"])
def test_half_precision_is_cast_to_single_and_said(state: State, tmp_path: Path, kind: torch.dtype, name: str) -> None:
    half = halves(state, kind)
    save_file(half, tmp_path / name) if name.endswith("safetensors") else torch.save(
        as_published(half), tmp_path / name
    )
    made = call(tmp_path / name, tmp_path / "runs")
    assert equal(weights(made), halves(half, torch.float32))
    floating = sum(one.is_floating_point() for one in state.values())
    assert made["messages"][1] == f"{floating} tensors of {str(kind)[6:]} became float32"


def test_other_classes_are_a_warning(state: State, tmp_path: Path) -> None:
    content = as_published(state)
    content["meta"]["CLASSES"] = ("bus", "car")
    made = call(saved(content, tmp_path / "a.pth"), tmp_path / "runs")
    assert "scores will be wrong: the file states the classes bus, car" in made["messages"][1]


# -- nothing twice, nothing by halves ------------------------------------------------------------------------------


def test_the_same_file_elsewhere_is_the_same_artifact(state: State, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    first = call(saved(state, tmp_path / "a.pth"), tmp_path / "runs")
    os.rename(tmp_path / "a.pth", tmp_path / "elsewhere" / "a.pth")
    again = call(tmp_path / "elsewhere" / "a.pth", tmp_path / "runs")
    other = call(tmp_path / "elsewhere" / "a.pth", tmp_path / "other")
    assert first["artifact"] == again["artifact"]
    assert first["artifact"]["digest"] == other["artifact"]["digest"]


def test_of_two_imports_the_later_is_meant_and_the_earlier_named(state: State, tmp_path: Path) -> None:
    files = [saved({**state, A_WEIGHT: state[A_WEIGHT] + step}, tmp_path / f"{step}.pth") for step in (0, 1)]
    earlier, later = (call(file, tmp_path / "runs") for file in files)
    profile = profiles.load("float", overrides=["model.weights=null"])
    assert float_detector(Job(profile, Store(tmp_path / "runs")))[1].digest == later["artifact"]["digest"]
    again = call(files[0], tmp_path / "runs")
    assert again["messages"][-1] == (
        "--model nano means those imported later; to use these: --set model.weights="
        + Path(earlier["artifact"]["path"]).name
    )
    call(files[0], tmp_path / "runs", "--force")
    assert float_detector(Job(profile, Store(tmp_path / "runs")))[1].digest == earlier["artifact"]["digest"]


def test_the_shipped_weights_stay_what_the_shipped_model_means(state: State, tmp_path: Path) -> None:
    made = call(saved(state, tmp_path / "a.pth"), tmp_path / "runs", "--set", "model.weights=zoo")
    assert made["messages"][-1].startswith(
        "--model nano means zoo; to use these: --set model.weights=float-float-nano-"
    )


def test_a_dry_run_compares_and_writes_nothing(state: State, tmp_path: Path) -> None:
    file = saved(halves(state, torch.float16), tmp_path / "a.pth")
    made = call(file, tmp_path / "runs", "--dry-run")
    assert made["would_do"] == [f"seal {file} as the float weights of nano in {tmp_path / 'runs'}"]
    assert made["tables"][0]["rows"][-1][1] == len(state)
    assert not (tmp_path / "runs").exists()
    call(saved({}, tmp_path / "b.pth"), tmp_path / "runs", "--dry-run", code=3)


# -- what is refused -----------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_counted_named_and_in_json_complete(state: State, tmp_path: Path) -> None:
    missing = sorted(name for name in state if name.startswith("img_neck."))
    changed = {name: one for name, one in state.items() if name not in missing}
    changed |= {
        "x": torch.ones(1),
        A_WEIGHT: torch.ones(2, 3),
        "img_backbone.conv1.weight": state["img_backbone.conv1.weight"].to(torch.int8),
    }
    file = saved(as_published(changed), tmp_path / "other.pth")
    said = call(file, tmp_path / "runs", code=2)
    size = "x".join(str(one) for one in state[A_WEIGHT].shape)
    shape = f"{A_WEIGHT} is 2x3 not {size}"
    kind = "img_backbone.conv1.weight is torch.int8 not torch.float32"
    assert said["tensors"] == {
        "missing": missing,
        "unknown": ["x"],
        "of another shape": [shape],
        "of another type": [kind],
        "unlike the copies that the model holds as one": [],
    }
    assert said["error"] == (
        f"{file} does not fit this model: tensors {len(missing)} missing ({', '.join(missing[:2])}, ...); "
        f"1 unknown (x); 1 of another shape ({shape}); 1 of another type ({kind}); check --model"
    )
    assert not list((tmp_path / "runs").glob("float-*"))


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("place", ["meta", "message_hub", "state_dict"])
def test_a_file_that_would_run_code_is_refused_and_runs_none(
    state: State, tmp_path: Path, place: str, zipped: bool
) -> None:
    content = as_exported(state)
    content[place] = {**content[place], "extra": Bomb(tmp_path / "exploded")}
    file = saved(content, tmp_path / "bomb.pth", _use_new_zipfile_serialization=zipped)
    said = call(file, tmp_path / "runs", code=3)["error"]
    assert said.startswith(f"{file} cannot be read as plain tensors: it ")
    assert said.endswith("could run code and are never loaded; copy it again, or save model.state_dict() alone")
    assert ("posix.system" in said) is zipped
    assert "\n" not in said
    assert not (tmp_path / "exploded").exists()
    assert not list((tmp_path / "runs").glob("float-*"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(state: State, tmp_path: Path, value: float) -> None:
    file = saved({**state, A_WEIGHT: torch.full_like(state[A_WEIGHT], value)}, tmp_path / "a.pth")
    said = call(file, tmp_path / "runs", code=3)["error"]
    assert f"{file} holds numbers that are not finite in 1 tensor (first {A_WEIGHT})" in said
    assert not list((tmp_path / "runs").glob("float-*"))


def test_a_file_that_is_not_there_says_what_to_download(tmp_path: Path) -> None:
    said = call(tmp_path / "a.pth", tmp_path / "runs", "--model", "tiny", code=3)["error"]
    assert said.startswith(f"there is no file {tmp_path / 'a.pth'}; download bevformer_tiny_epoch_24.pth from ")
    assert "github.com/fundamentalvision/BEVFormer" in said


@pytest.mark.parametrize("content", [b"", b"<!doctype html><title>Google Drive</title>"])
def test_a_page_saved_in_place_of_the_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    assert (
        "cannot be read as plain tensors: it is damaged" in call(tmp_path / "a.pth", tmp_path / "runs", code=3)["error"]
    )
