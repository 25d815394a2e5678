"""A float training that starts from the image backbone of another detector."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.assembly.tensors import in_bytes, read_tensors, write_tensors
from pipelines.lineage.stated import shipped_weights
from pipelines.store.artifacts import Store

Call = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def settings(tiny_synthetic: Path) -> list[str]:
    return [
        f"data.source={tiny_synthetic}",
        "data.more_seeds=[]",
        "float_training.steps=0",
        "float_training.backbone_from=nano",
        "float_training.precision=fp32",
    ]


def test_layers_that_fit_start_as_those_of_the_other(call: Call, store: Path) -> None:
    made = Store(store).open(call("train-float", "--model", "nano-detr3d")["artifact"]["digest"])
    shipped = shipped_weights("nano")
    assert shipped is not None
    assert made.manifest.parents == {"backbone": shipped.digest}
    assert any("image backbone: 90 of 90 tensors" in note for note in made.manifest.notes), made.manifest.notes
    own, other = (read_tensors(artifact.file("model.safetensors")) for artifact in (made, shipped))
    for name, value in own.items():
        if name.startswith("img_backbone.") and value.is_floating_point():
            assert torch.equal(value, other[name]), name


def test_a_backbone_of_other_sizes_is_refused(call: Call) -> None:
    document = call("train-float", "--model", "tiny", "--set", "float_training.auxiliary=false", code=3)
    assert "no layer of" in str(document["error"])


def test_two_beginnings_are_refused(call: Call) -> None:
    document = call("train-float", "--model", "nano-detr3d", "--set", "float_training.start_from=zoo", code=2)
    assert "backbone_from" in str(document["error"])


def test_weights_as_bytes_come_back_within_half_a_step(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    state = {"a": torch.randn(5, 3, 2, 2, generator=generator), "b": torch.randn(4, generator=generator)}
    state["a"][2] = 0
    write_tensors(tmp_path / "w.safetensors", in_bytes(state, names=["a"]))
    back = read_tensors(tmp_path / "w.safetensors")
    assert back.keys() == state.keys() and torch.equal(back["b"], state["b"])
    step = state["a"].abs().flatten(1).amax(1) / 127
    assert ((back["a"] - state["a"]).abs().flatten(1).amax(1) <= step / 2 + 1e-7).all()
