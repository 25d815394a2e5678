"""``report --measure --export``: an export timed beside its rivals, in rounds; where the time goes."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import profiles
from pipelines.assembly.detector import build_detector
from pipelines.assembly.quantized import detector_plan
from pipelines.bit_planning.costs import timed_costs
from pipelines.bit_planning.latency_table import Timed, read_latency_table
from pipelines.bit_planning.offered import offered_bits
from pipelines.bit_planning.problem import bit_pairs

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from pipelines.exporting import timing
from qdbev.export.onnx.profiled import Profiled

Call = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def usual_model(mite: str) -> str:
    return mite


@pytest.fixture(scope="module")
def settings(tiny_synthetic: Path) -> list[str]:
    return [f"data.source={tiny_synthetic}", "data.train_scenes=3", "data.val_scenes=1", "calibration.samples=2"]


@pytest.fixture(scope="module")
def exported(call: Call, model: dict[str, Any]) -> dict[str, Any]:
    return call("export onnx", model["path"])


@pytest.fixture(scope="module")
def tables(call: Call, exported: dict[str, Any]) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "_ROUNDS", 3)
        printed = call("report", "--measure", "--export", exported["artifact"]["path"])["tables"]
    return {
        table["name"]: [dict(zip(table["headers"], row, strict=True)) for row in table["rows"]] for table in printed
    }


def test_rivals_are_timed_in_one_run(tables: dict[str, Any]) -> None:
    rows = {row["name"]: row for row in tables["executed_latency"]}
    names = ["float, torch", "float, ONNX Runtime", "W8A8, ONNX Runtime", "W4A6, ONNX Runtime"]
    assert list(rows)[:4] == names
    for row in rows.values():
        assert 0 < row["low_s"] <= row["median_s"] <= row["high_s"]
        assert row["times"] == pytest.approx(rows["float, ONNX Runtime"]["median_s"] / row["median_s"])
    assert rows["float, ONNX Runtime"]["integer_share"] == 0 < rows["W4A6, ONNX Runtime"]["integer_share"] < 1
    assert rows["float, torch"]["layers"] is None
    # as many layers multiply integers at eight bits as at four
    assert rows["W8A8, ONNX Runtime"]["layers"] == rows["W4A6, ONNX Runtime"]["layers"]
    done, whole = map(int, rows["W4A6, ONNX Runtime"]["layers"].split(" of "))
    assert 0 < done < whole


def test_parts_and_operators_share_the_time(tables: dict[str, Any]) -> None:
    parts = {row["part"]: row["W4A6, ONNX Runtime"] for row in tables["latency_by_part"]}
    assert list(parts) == ["backbone", "neck", "encoder", "decoder", "between parts"]
    assert all(seconds > 0 for seconds in parts.values()) and parts["between parts"] < sum(parts.values()) / 4
    shares = [row["share"] for row in tables["latency_by_operator"]]
    assert shares == sorted(shares, reverse=True) and 0.4 < sum(shares) <= 1


def test_rounds_let_each_run_once_in_turn() -> None:
    order: list[str] = []
    seconds = timing.measured_rounds([lambda: order.append("a"), lambda: order.append("b")])
    assert order == ["a", "b"] * 11 and [len(times) for times in seconds] == [10, 10]  # one round to warm up


def test_the_share_of_integers_is_that_of_their_products() -> None:
    assert Profiled(
        {}, {"QLinearConv": 0.2, "MatMulIntegerToFloat": 0.1, "Softmax": 0.7}
    ).integer_share == pytest.approx(0.3)
    assert Profiled({}, {}).integer_share == 0


def test_export_needs_measure_and_an_onnx_export(call: Call, model: dict[str, Any]) -> None:
    assert "give --measure too" in call("report", "--export", model["path"], code=2)["error"]
    refused = call("report", "--measure", "--export", model["path"], code=2)
    assert "--export times an onnx one" in refused["error"]


def test_bits_change_over_the_same_range() -> None:
    from tests.export.onnx.conftest import make_frame

    frame = make_frame()
    before = frame.detector.img_backbone.conv1.input_quantizer.scale.clone()
    other = timing.at_bits(frame, 8, 8).detector.img_backbone.conv1
    assert (other.weight_quantizer.bits, other.input_quantizer.bits) == (8, 8)
    assert torch.equal(other.input_quantizer.scale, before / 4)
    assert frame.detector.img_backbone.conv1.input_quantizer.bits == 6


def test_a_plan_for_the_runtime_takes_the_times_of_its_layers(
    exported: dict[str, Any], store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mite: str, call: Call
) -> None:
    file, script = tmp_path / "latency.csv", Path(__file__).parents[3] / "scripts" / "measure_ort_latency.py"
    monkeypatch.setattr(sys, "argv", [str(script), str(file), exported["artifact"]["path"], "--store", str(store)])
    runpy.run_path(str(script), run_name="__main__")
    table = read_latency_table(file)
    profile = profiles.load("w4a6", model=mite, overrides=["bit_plan.latency=0.99", "bit_plan.target=ort"])
    detector = build_detector(profile.model, rig=profile.data.rig)
    plan = detector_plan(detector, section=profile.quantization)
    layers = {site.path for site in plan.quantized if site.kind != "embedding"}
    assert {time.path for time in table} == {*layers, "everything else"}
    offers = offered_bits(detector, plan, profile=profile)
    pairs = {path: bits for path, bits in bit_pairs(plan, profile=profile, offers=offers).items() if path in layers}
    costs = timed_costs(table, pairs=pairs)
    assert 0 < costs.rest < costs.whole
    assert {weights for bits in pairs.values() for weights, _ in bits} == {4, 8}
    taken = [path for path in layers if costs.layers[table_row(path)]]
    assert len(taken) > 0.9 * len(layers)  # classes of decoder layers before the last are no part of a frame


def table_row(path: str) -> Timed:
    return Timed(path, 4, 6)
