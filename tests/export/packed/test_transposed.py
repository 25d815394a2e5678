"""Transposed convolutions in packed files: rows of output channels, their own version, and the reader in numpy."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipelines.store.tensors import check_numbers
from qdbev.export.packed import WEIGHTS, packed_state, read_packed, sizes_of_state, unpacked_state, write_packed
from qdbev.quantization import Plan, make_plan, observing, pack_model, quantize, set_parts
from qdbev.quantization.planning.output_channels import as_held, outputs_first

READER = Path(__file__).parents[3] / "docs" / "examples" / "read_packed.py"
X = torch.randn(2, 4, 5, 3, generator=torch.Generator().manual_seed(1))


def calibrated(groups: int) -> tuple[nn.Sequential, Plan]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.ConvTranspose2d(4, 6, (3, 2), stride=2, groups=groups), nn.ReLU(), nn.Conv2d(6, 2, 1))
    plan = make_plan(model, parts={"all": [""]}, weight_bits=3, activation_bits=6)
    quantize(model, plan)
    with observing(model), torch.no_grad():
        model(X)
    set_parts(model, {"all"})
    return model, plan


def deployed(layer: Any, groups: int) -> Tensor:
    return as_held(layer.weight_quantizer(outputs_first(layer.weight.detach(), turned=groups)), turned=groups)


@pytest.mark.parametrize("groups", [1, 2])
def test_what_comes_back_is_what_went_in(groups: int, tmp_path: Path) -> None:
    model, plan = calibrated(groups)
    packed = packed_state(model)
    assert packed.tensors["0.weight_packed"].shape[0] == packed.tensors["0.weight_scale"].shape[0] == 6
    assert packed.tensors["0.weight_shape"].tolist() == [4, 6 // groups, 3, 2]
    assert packed.tensors["0.weight_groups"].tolist() == [groups] and "2.weight_groups" not in packed.tensors
    assert sizes_of_state(packed, plan=plan).parts["all"]["shapes"] == 8 * (4 + 4 + 1)
    config = write_packed(tmp_path, packed, plan=plan, architecture="toy", description={})
    assert config["qdbev"]["format_version"] == 2
    state = unpacked_state(read_packed(tmp_path).packed, like=model.state_dict())
    assert torch.equal(state["0.weight"], deployed(model[0], groups))
    assert torch.equal(state["0.weight_quantizer.scale"], model[0].weight_quantizer.scale)  # type: ignore[union-attr]
    assert state.keys() == model.state_dict().keys()
    reader = runpy.run_path(str(READER))
    assert torch.equal(torch.from_numpy(reader["weights"](tmp_path)["0.weight"].copy()), state["0.weight"])


def test_without_one_the_version_is_the_first(tmp_path: Path) -> None:
    model, plan = calibrated(1)
    plan = make_plan(nn.Sequential(nn.Conv2d(6, 2, 1)), parts={"all": [""]}, weight_bits=3, activation_bits=6)
    config = write_packed(tmp_path, packed_state(model[2:]), plan=plan, architecture="toy", description={})
    assert config["qdbev"]["format_version"] == 1


@pytest.mark.parametrize("kind", ["exported", "sealed"])
def test_groups_that_do_not_fit_are_seen(kind: str, tmp_path: Path) -> None:
    model, _ = calibrated(2)
    save_file(packed_state(model).tensors if kind == "exported" else pack_model(model), path := tmp_path / WEIGHTS)
    check_numbers(path)
    tensors = load_file(path)
    tensors["0.weight_groups"] += 1
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"packed weight 0\.weight has impossible groups by its shape \[4, 3, 3, 2\]"):
        check_numbers(path)
    tensors["0.weight_groups"] -= 2
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"packed weight 0\.weight has .* by its shape \[4, 3, 3, 2\]"):
        check_numbers(path)
