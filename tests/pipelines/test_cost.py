"""A detector's cost by its numbers: the official counts to the last MAC, the paper's rule, and the report of it."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import profiles
from pipelines.cost import cost_tables, count, paper_table
from pipelines.quantized import detector_plan
from qdbev.quantization import bops
from qdbev_cli.app import app

VARIANTS = ("tiny", "small", "base")


@pytest.fixture(scope="module")
def costs():
    return {name: count(profiles.load("w4a6", model=name)) for name in VARIANTS}


def _official_lines(shared: Path, name: str) -> Counter[tuple[str, str]]:
    """The reference's layers under our names: both projections of an attention are one line, both products another."""
    document = json.loads((shared / "reference" / "bevformer_macs.json").read_text())
    lines: Counter[tuple[str, str]] = Counter()
    for path, layer in document[name]["padded"]["layers"].items():
        owner, _, last = path.rpartition(".")
        inside = last in ("in_proj", "out_proj") or last.startswith("#")
        kind = {"matmul": "product", "msda_core": "sampling"}.get(layer["type"], "layer")
        lines[owner if inside else path, kind] += layer["macs"]
    return lines


@pytest.mark.parametrize("name", VARIANTS)
def test_every_layer_costs_what_the_official_code_spends_on_it(name, costs, shared):
    kinds = {"attention_product": "product", "sampling": "sampling"}
    ours = {(line.path, kinds.get(line.kind, "layer")): line.macs for line in costs[name].official}
    assert ours == dict(_official_lines(shared, name))


def test_totals_of_tiny(costs):
    """The official total of convolutions and linear layers for padded images (bevformer_macs.json), and ours below."""
    assert sum(line.macs for line in costs["tiny"].official if line.is_layer) == 202_281_542_912
    assert sum(line.macs for line in costs["tiny"].lines if line.is_layer) < 202_281_542_912


@pytest.mark.parametrize(("name", "size_mb"), [("tiny", 126.82), ("small", 225.59), ("base", 262.10)])
def test_size_by_the_papers_rule(name, size_mb, costs):
    table = cost_tables(costs[name])[0]
    sizes = {row["bits"]: row["nominal_bytes"] / 2**20 for row in table.rows}
    assert sizes["W32A32"] == pytest.approx(size_mb, abs=0.005)
    assert sizes["W4A6"] == pytest.approx(size_mb / 8, abs=0.005)


def test_counts_are_those_of_a_real_forward_pass(tiny_synthetic):
    """Nano on a synthetic frame against nano as shapes: the same layers and MACs, for the same images."""
    from pipelines.assemble import build_detector
    from pipelines.quantized import example_call
    from pipelines.samples import load_split
    from qdbev.quantization import count_macs

    profile = profiles.load("w4a6", overrides=[f"data.source={tiny_synthetic}", "data.val_scenes=1"])
    torch.manual_seed(0)
    detector = build_detector(profile.model)
    split = load_split(profile.data, name="val", progress=False)
    real = count_macs(detector, lambda: example_call(detector, profile=profile, split=split, frames=1))
    ours = count(profile)
    assert {line.path: line.macs for line in real if line.is_layer} == {
        line.path: line.macs for line in ours.lines if line.is_layer
    }
    plan = detector_plan(build_detector(profile.model), section=profile.quantization)
    assert bops(plan, ours.lines) == bops(plan, real)


def test_the_papers_efficiency_beside_ours():
    rows = {(row["model"], row["bits"]): row for row in paper_table().rows}
    assert len(rows) == 9
    assert abs(rows["tiny", "W4A6"]["size_deviation"]) < 0.004
    assert rows["base", "W32A32"]["bops_ratio"] == pytest.approx(0.3525, abs=1e-4)


def test_a_report_needs_no_data_and_no_weights(tmp_path):
    store = tmp_path / "runs"
    result = CliRunner().invoke(app, ["report", "--model", "tiny", "--store", str(store)])
    assert result.exit_code == 0, result.output
    for words in ("126.82", "official code", "62.33", "qdbev compress --profile w4a6 --model tiny"):
        assert words in result.output
    made = CliRunner().invoke(app, ["report", "--paper", "--format", "csv", "--store", str(store)])
    assert made.exit_code == 0 and len(made.stdout.splitlines()) == 2 + 9
    assert not store.exists()


def test_a_page_needs_something_measured(tmp_path):
    result = CliRunner().invoke(app, ["report", "--format", "html", "--store", str(tmp_path)])
    assert result.exit_code == 2 and "nothing was" in result.output
