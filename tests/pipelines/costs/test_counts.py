"""A detector's cost by its numbers: the official counts to the last MAC, the paper's rule, and the report of it."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import pipelines.assembly.detector as assembly
import profiles
from pipelines.assembly.detector import build_detector
from pipelines.assembly.quantized import detector_plan
from pipelines.assembly.scene import scene_of
from pipelines.costs import counts
from pipelines.costs.counts import FLOAT, Footprint, cost_tables, count, footprint
from pipelines.costs.forecast import inference_memory
from pipelines.costs.memory import Memory, memory
from profiles.sections.schedule import PARTS
from qdbev.detectors.bevformer.counting import one_frame
from qdbev.quantization import bops
from qdbev.quantization.planning.activation_memory import activation_memory
from qdbev_cli.app import app

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
VARIANTS = ("tiny", "small", "base")
NANO = profiles.load("w4a6", model="nano")
STEPS = ("qat", "distillation.schedule")
NANO_PARAMETERS = 1_208_000


@pytest.fixture(scope="module")
def costs():
    return {name: count(profiles.load("w4a6", model=name)) for name in VARIANTS}


@pytest.fixture
def counted_once(costs, monkeypatch):
    """Commands take what is counted already."""
    monkeypatch.setattr(counts, "count", lambda profile: costs[profile.model.name])


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
    lines = [line for line in costs[name].official if line.kind != "product"]  # projections of points, not in its list
    ours = {(line.path, kinds.get(line.kind, "layer")): line.macs for line in lines}
    assert ours == dict(_official_lines(shared, name))


def test_totals_of_tiny(costs):
    """The official total of convolutions and linear layers for padded images (bevformer_macs.json), and ours below."""
    assert sum(line.macs for line in costs["tiny"].official if line.is_layer) == 202_281_542_912
    assert sum(line.macs for line in costs["tiny"].lines if line.is_layer) < 202_281_542_912


@pytest.mark.parametrize(("name", "size_mb"), [("tiny", 126.82), ("small", 225.59), ("base", 262.10)])
def test_size_by_the_papers_rule(name, size_mb, costs):
    taken = Footprint(dict.fromkeys(costs[name].plans, 0), Memory(0, 0, 0), (1, 1))
    table = cost_tables(costs[name], taken=taken)[0]
    sizes = {row["bits"]: row["nominal_bytes"] / 2**20 for row in table.rows}
    assert sizes["W32A32"] == pytest.approx(size_mb, abs=0.005)
    assert sizes["W4A6"] == pytest.approx(size_mb / 8, abs=0.005)


def test_counts_are_those_of_a_real_forward_pass(tiny_synthetic):
    """Nano on a synthetic frame against nano as shapes: the same layers and MACs, for the same images."""
    from pipelines.assembly.example import Example
    from pipelines.assembly.samples import load_split
    from qdbev.quantization import count_macs

    profile = profiles.load("w4a6", overrides=[f"data.source={tiny_synthetic}", "data.val_scenes=1"])
    torch.manual_seed(0)
    detector = build_detector(profile.model)
    split = load_split(profile.data, name="val", progress=False)
    real = count_macs(detector, Example(detector, profile=profile, split=split, frames=1))
    ours = count(profile)
    assert {line.path: line.macs for line in real if line.is_layer} == {
        line.path: line.macs for line in ours.lines if line.is_layer
    }
    plan = detector_plan(build_detector(profile.model), section=profile.quantization)
    assert bops(plan, ours.lines) == bops(plan, real)


def test_the_papers_efficiency_beside_ours_needs_no_store(tmp_path, counted_once):
    store = tmp_path / "runs"
    made = CliRunner().invoke(app, ["report", "--paper", "--format", "csv", "--store", str(store)])
    header, *lines = made.stdout.splitlines()
    assert made.exit_code == 0 and header == "table,model,bits,metric,value"
    cells = {tuple(cells[1:4]): cells[4] for cells in (line.split(",") for line in lines)}
    assert len({(model, bits) for model, bits, _ in cells}) == 9
    assert abs(float(cells["tiny", "W4A6", "size_deviation"])) < 0.004
    assert float(cells["base", "W32A32", "bops_ratio"]) == pytest.approx(0.3525, abs=1e-4)
    assert not store.exists()


def test_a_report_needs_no_data_and_no_weights(tmp_path, counted_once):
    store = tmp_path / "runs"
    result = CliRunner().invoke(app, ["report", "--model", "tiny", "--store", str(store)])
    assert result.exit_code == 0, result.output
    for words in ("126.82", "official code", "62.33", "a step of QAT", "qdbev compress --profile w4a6 --model tiny"):
        assert words in result.output
    assert [path.name for path in (store / "_report").iterdir()] == ["macs.png"]


def test_a_frame_of_shapes_takes_the_memory_of_a_real_one():
    """Nano as shapes against nano run on noise: kernels written for the CPU make some temporaries of their own."""
    scene = scene_of(NANO)
    torch.manual_seed(0)
    detector = build_detector(NANO.model).eval()

    def real():
        images, frames, history = one_frame(detector, scene, device="cpu")
        images.normal_()
        history.bev_BQC.normal_()
        return detector.decode(detector.encode(detector.extract_feat(images), frames=frames, history=history).bev_BQC)

    with torch.no_grad():
        measured = activation_memory(detector, real).peak_bytes
    assert activation_memory(detector, detector.shape_run(scene)).peak_bytes == pytest.approx(measured, rel=0.05)


def test_memory_follows_batch_and_average(mite):
    def load(*overrides):
        return profiles.load("w4a6", model=mite, overrides=[f"{what}.batch_size=2" for what in STEPS] + [*overrides])

    def qat(*overrides):
        return memory(load("qat.ema_decay=0.98", *overrides)).qat_step

    needed = memory(load("qat.ema_decay=0.98"))
    one, two, three = qat("qat.batch_size=1"), needed.qat_step, qat("qat.batch_size=3")
    assert two - one == three - two > 0
    weights = sum(value.numel() * value.element_size() for value in build_detector(load().model).state_dict().values())
    assert qat("qat.ema_decay=null", "qat.batch_size=1") == one - weights
    assert needed.inference < needed.qat_step < needed.distillation_step


def test_memory_is_told_of_a_detector_that_is_built_once_and_not_of_one_without_shapes(mite, monkeypatch):
    built, kind_of = [], assembly.kind_of
    monkeypatch.setattr(assembly, "kind_of", lambda model: built.append(model.name) or kind_of(model))
    (said,) = inference_memory(profiles.load("float", model=mite))
    assert said.endswith("GB for inference") and built == ["mite"]
    assert inference_memory(profiles.load("float", model=str(EXAMPLES / "fcos3d.yaml"))) == []


def test_packed_bytes_shrink_with_the_bits():
    packed = footprint(NANO).packed
    assert packed[FLOAT] > packed["W8A8"] > packed["W6A6"] > packed["W4A6"] == packed["W4A4"]
    eight, four = packed["W8A8"], packed["W4A6"]
    quantized = 2 * (eight - four)  # weights at one byte each
    assert 0.9 < quantized / NANO_PARAMETERS < 1.0


def test_latency_of_every_part(tmp_path, mite):
    words = ["--measure", "--format", "json", "--device", "cpu", "--store", str(tmp_path)]
    result = CliRunner().invoke(app, ["report", "--model", mite, *words])
    assert result.exit_code == 0, result.output
    (table,) = (table for table in json.loads(result.stdout)["tables"] if table["name"] == "latency")
    assert "threads" in table["title"]
    rows = {row["part"]: row for row in (dict(zip(table["headers"], row, strict=True)) for row in table["rows"])}
    assert list(rows) == [*PARTS, "total"]
    assert all(0 < row["low_s"] <= row["median_s"] <= row["high_s"] for row in rows.values())
    assert rows["total"]["low_s"] >= max(rows[part]["low_s"] for part in PARTS)


def test_a_dry_run_says_what_it_would_need(tmp_path, mite):
    call = ["compress", "--dry-run", "--json", "--store", str(tmp_path / "runs")]
    result = CliRunner().invoke(app, [*call, "--set", "data.train_scenes=10", "--set", "qat.steps_per_stage=5"])
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)["would_do"]
    assert "data: 80 training and 512 validation samples of synthetic" in plan
    assert "epochs of the training samples, on one process: 2 in QAT, 6 in distillation" in plan
    assert "GB for a step of distillation" in plan[-1]
    missing = CliRunner().invoke(app, [*call, "--set", "data.source=/nowhere"])  # nano takes a part of the scenes
    assert missing.exit_code == 3 and "no nuScenes version" in missing.output
    whole = [*call, "--model", mite, "--set", "data.source=/nowhere"]
    plan = json.loads(CliRunner().invoke(app, whole).stdout)["would_do"]
    assert any("28,130 training and 6,019 validation samples of /nowhere (v1.0-trainval is not" in one for one in plan)


@pytest.mark.slow
def test_a_dry_run_of_base_needs_nothing_on_the_machine(tmp_path, monkeypatch):
    """No weights, no scenes, no data set, an empty store; nothing is there afterwards either."""
    monkeypatch.setenv("QDBEV_CACHE", str(tmp_path / "cache"))
    call = ["compress", "--dry-run", "--model", "base", "--json", "--store", str(tmp_path / "runs")]
    started = time.process_time()
    result = CliRunner().invoke(app, [*call, "--set", f"data.source={tmp_path / 'nuscenes'}"])
    assert time.process_time() - started < 60  # about ten on an idle core
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)["would_do"]
    assert [line.partition(":")[0] for line in plan if line.startswith("stage")] == [f"stage {n}" for n in range(1, 5)]
    assert any("28,130 training and 6,019 validation samples" in line for line in plan)
    assert any(line.startswith("epochs of the training samples") for line in plan)
    assert "GB for a step of distillation" in plan[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_counts_the_samples_of_real_tables(tiny_synthetic, tmp_path, mite):
    call = [
        "compress",
        "--model",
        mite,
        "--dry-run",
        "--json",
        "--set",
        f"data.source={tiny_synthetic}",
        "--store",
        str(tmp_path),
    ]
    call += ["--set", "calibration.samples=8"]
    plan = json.loads(CliRunner().invoke(app, call).stdout)["would_do"]
    assert f"data: 12 training and 8 validation samples of {tiny_synthetic}" in plan


def test_a_page_needs_something_measured(tmp_path):
    result = CliRunner().invoke(app, ["report", "--format", "html", "--store", str(tmp_path)])
    assert result.exit_code == 2 and "nothing was" in result.output
