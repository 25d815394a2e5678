"""lint: what quantizes badly in nano and in a detector of mmdet3d; the warning before calibrate."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from qdbev_cli.app import app

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
Call = Callable[..., dict[str, Any]]
ENCODER, DECODER = "pts_bbox_head.transformer.encoder.layers", "pts_bbox_head.transformer.decoder.layers"
OFFSETS = [
    *(f"{ENCODER}.{layer}.attentions.0.sampling_offsets" for layer in range(2)),
    *(f"{ENCODER}.{layer}.attentions.1.deformable_attention.sampling_offsets" for layer in range(2)),
    *(f"{DECODER}.{layer}.attentions.1.sampling_offsets" for layer in range(3)),
]


@pytest.fixture(scope="module")
def settings(tiny_synthetic: Path) -> list[str]:
    return [f"data.source={tiny_synthetic}", "data.train_scenes=1", "data.val_scenes=1", "calibration.samples=2"]


@pytest.fixture(scope="module")
def usual_model() -> str:
    return ""


@pytest.fixture(scope="module")
def nano(call: Call, store: Path) -> dict[str, Any]:
    document = call("lint nano", "--profile", "w4a4")
    assert document["artifact"] is None and not store.joinpath("calibration-w4a4-nano").exists()
    return document


def layers(document: dict[str, Any], code: str) -> set[str]:
    return {finding["layer"] for finding in document["findings"] if finding["code"] == code}


def test_the_findings_of_nano(nano: dict[str, Any]) -> None:
    assert layers(nano, "inverse-sigmoid") == {"pts_bbox_head.transformer.decoder"}
    [projection] = [finding for finding in nano["findings"] if finding["code"] == "reciprocal"]
    assert re.fullmatch(r"divides by numbers from 1e-05 to \d+(\.\d)? \(projection\.py:\d+\)", projection["operation"])
    assert projection["high"] > 1e6
    moved = {f"pts_bbox_head.reg_branches.{layer}.4" for layer in range(2)}  # the last layer's is sampled by none
    assert layers(nano, "coordinates") - {"pts_bbox_head.transformer.can_bus_mlp.0"} == {*OFFSETS, *moved}
    branches = {f"pts_bbox_head.{name}.{layer}" for name in ("cls_branches", "reg_branches") for layer in range(3)}
    assert {layer.rpartition(".")[0] for layer in layers(nano, "narrow")} == branches
    assert all(finding["low"] <= finding["high"] and finding["remedy"] for finding in nano["findings"])
    assert nano["metrics"]["hazards"]["narrow"] == 6 and sum(nano["metrics"]["hazards"].values()) == len(
        nano["findings"]
    )


def test_what_stays_in_float_is_no_finding(call: Call, nano: dict[str, Any]) -> None:
    words = ["--set", 'quantization.float_layers=["*sampling_offsets", "*branches.*"]']
    document = call("lint nano", "--profile", "w4a4", *words)
    assert layers(document, "coordinates") == layers(nano, "coordinates") & {"pts_bbox_head.transformer.can_bus_mlp.0"}
    assert layers(document, "narrow") == set() and layers(document, "reciprocal") == layers(nano, "reciprocal")


def test_a_detector_by_its_config(call: Call) -> None:
    document = call("lint", str(EXAMPLES / "centerpoint.yaml"))
    [raw, narrow] = document["findings"]
    assert raw["layer"] == narrow["layer"] == "pts_voxel_encoder.pfn_layers.0.linear"
    assert re.fullmatch(r"reads raw numbers: \d of 11 round to 0 in 6 bits", raw["operation"])
    assert (narrow["code"], narrow["operation"]) == ("narrow", "projects 11 to 16 numbers")


def test_calibrate_warns_before_it_begins_and_lint_says_so_in_a_table(
    settings: list[str], mite: str, tmp_path: Path
) -> None:
    words = ["--model", mite, *(word for setting in settings for word in ("--set", setting)), "--store", str(tmp_path)]
    linted = CliRunner().invoke(app, ["lint", *words])
    assert linted.exit_code == 0
    lines = linted.stdout.splitlines()
    assert lines[0] == "Operations that quantize badly"
    [total] = [line.partition(" (")[0] for line in lines if "quantize badly: " in line]
    assert sum(bool(re.match(r" *\d+  narrow ", line)) for line in lines) == int(re.findall(r"(\d+) narrow", total)[0])
    assert "narrow: leave the layer in float" in lines and "reciprocal: compute it in float" in linted.stdout
    made = CliRunner().invoke(app, ["calibrate", *words])
    assert f"qdbev: lint: {total}; `qdbev lint` with the same options lists them" in made.stderr
    assert "lint" not in CliRunner().invoke(app, ["calibrate", *words]).stderr  # found sealed


def test_refusals(call: Call) -> None:
    assert "quantizes nothing" in call("lint", "--profile", "float", code=2)["error"]
    assert "named twice" in call("lint nano", "--model", "tiny", code=2)["error"]
    [step] = call("lint nano", "--dry-run")["would_do"]
    assert step == "look for operations that quantize badly: two frames of nano in float, judged at W4A6"
