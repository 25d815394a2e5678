"""``export packed``: what comes back is what went in, bit for bit, and what was damaged is refused by one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import profiles
from pipelines.assembly.quantized import load_quantized
from pipelines.exporting.packed import differing, load_packed
from pipelines.store.artifacts import DamagedArtifact, Store
from qdbev.export.packed import CONFIG, WEIGHTS
from qdbev.export.packed.config import sealed

Call = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def settings(tiny_synthetic: Path) -> list[str]:
    return [
        f"data.source={tiny_synthetic}",
        "data.train_scenes=3",
        "data.val_scenes=1",
        "calibration.samples=2",
        "quantization.activation_sign=auto",
        "evaluation.max_boxes=30",
    ]


@pytest.fixture(scope="module")
def model(call: Call) -> dict[str, Any]:
    artifact: dict[str, Any] = call("calibrate")["artifact"]
    return artifact


@pytest.fixture(scope="module")
def folder(call: Call, model: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exports") / "nano"
    made = call("export packed", "--out", str(out))
    assert made["artifact"]["kind"] == "packed"
    assert made["messages"][0] == f"read back: 569 tensors, equal to those of {Path(model['path']).name} bit for bit"
    return out


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_every_tensor_comes_back_bit_for_bit(folder: Path, model: dict[str, Any], settings: list[str]) -> None:
    profile = profiles.load("w4a6", overrides=settings)
    artifact = Store(Path(model["path"]).parent).open(model["path"])
    expected = load_quantized(artifact, profile=profile).detector.state_dict()
    alone, asked = load_packed(folder), load_packed(folder, profile=profile)
    assert differing(alone.detector.state_dict(), expected) == []
    assert differing(asked.detector.state_dict(), expected) == []
    assert alone.complete


def test_differing_sees_a_bit_a_type_and_a_name() -> None:
    one = {"a": torch.zeros(2), "b": torch.zeros(2), "c": torch.zeros(1)}
    other = {"a": torch.tensor([0.0, 1e-45]), "b": torch.zeros(2, dtype=torch.float16), "d": torch.zeros(1)}
    assert differing(one, other) == ["a", "b", "c", "d"]
    assert differing(one, dict(one)) == []


def test_the_export_scores_as_the_artifact(call: Call, folder: Path, model: dict[str, Any]) -> None:
    packed, whole = call("evaluate", str(folder)), call("evaluate", model["path"])
    names = ("NDS", "mAP", "mATE")
    assert [packed["metrics"][name] for name in names] == [whole["metrics"][name] for name in names]


def test_nothing_is_overwritten_unless_forced(call: Call, folder: Path, tmp_path: Path) -> None:
    refused = call("export packed", "--out", str(folder), code=2)
    assert refused["error"].endswith("where an artifact lies; --force replaces it")
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    refused = call("export packed", "--out", str(tmp_path), "--force", code=2)
    assert refused["error"].endswith("where something else lies; name a folder that does not exist yet")
    before = (folder / WEIGHTS).read_bytes()
    call("export packed", "--out", str(folder), "--force")
    assert (folder / WEIGHTS).read_bytes() == before


def test_only_a_quantized_detector_is_packed(call: Call, folder: Path, tmp_path: Path) -> None:
    assert "is a packed artifact; only a quantized detector" in call("export packed", str(folder), code=2)["error"]
    assert "there is no quantized w4a6-nano in" in call("export packed", at=tmp_path, code=3)["error"]


def test_a_flipped_byte_is_refused(call: Call, copy: Path) -> None:
    content = bytearray((copy / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (copy / WEIGHTS).write_bytes(content)
    assert f"{WEIGHTS} was changed" in call("evaluate", str(copy), code=3)["error"]
    with pytest.raises(DamagedArtifact, match=f"{WEIGHTS} was changed after it was written"):
        load_packed(copy)


def test_a_cut_file_is_refused(call: Call, copy: Path) -> None:
    content = (copy / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes(content[:-100])
    assert f"has {len(content) - 100} bytes, {len(content)} were sealed" in call("evaluate", str(copy), code=3)["error"]
    with pytest.raises(DamagedArtifact, match=f"has {len(content) - 100} bytes, {len(content)} were written"):
        load_packed(copy)


def test_an_unknown_version_is_refused(copy: Path) -> None:
    rewrite(copy, format_version=2)
    with pytest.raises(DamagedArtifact, match="is of format version 2; this qdbev reads version 1"):
        load_packed(copy)


def test_a_changed_config_is_refused(copy: Path) -> None:
    text = (copy / CONFIG).read_text(encoding="ascii")
    (copy / CONFIG).write_text(text.replace("bevformer", "bevformes"), encoding="ascii")
    with pytest.raises(DamagedArtifact, match="its content does not match its digest"):
        load_packed(copy)
    (copy / CONFIG).write_text("{}", encoding="ascii")
    with pytest.raises(DamagedArtifact, match="describes no packed model"):
        load_packed(copy)
    (copy / CONFIG).unlink()
    with pytest.raises(DamagedArtifact, match=f"{CONFIG}: No such file"):
        load_packed(copy)


def test_another_model_is_refused(copy: Path, settings: list[str]) -> None:
    other = profiles.load("w4a6", overrides=[*settings, "model.bev.rows=20"])
    with pytest.raises(DamagedArtifact, match="it holds nano with other numbers than nano has here"):
        load_packed(copy, profile=other)
    own = json.loads((copy / CONFIG).read_text(encoding="ascii"))["qdbev"]
    rewrite(copy, weights={name: [8, -128, 127] for name in own["weights"]})
    with pytest.raises(DamagedArtifact, match=r"packed weight .*: rows of .* integers of 8 bits are"):
        load_packed(copy)
    rewrite(copy, weights=dict(list(own["weights"].items())[1:]))
    with pytest.raises(DamagedArtifact, match="does not fit this model: tensors"):
        load_packed(copy)


def rewrite(folder: Path, **own: Any) -> None:
    """Change what a config.json says and seal it again, as a liar would."""
    config = json.loads((folder / CONFIG).read_text(encoding="ascii"))
    changed = sealed(config | {"qdbev": config["qdbev"] | own})
    (folder / CONFIG).write_text(json.dumps(changed), encoding="ascii")
