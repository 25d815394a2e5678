"""Bit plans through the commands on the tiny data set: what is chosen, who takes it, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import profiles
from pipelines.assembly.job import Job
from pipelines.assembly.quantized import load_quantized
from pipelines.bit_planning.candidates import Choice
from pipelines.bit_planning.latency_table import Timed, table_digest
from pipelines.bit_planning.problem import make_problem, measured_tensors
from pipelines.lineage.bit_plan import bits_label
from pipelines.lineage.keys import losses_key, plan_key
from pipelines.store.artifacts import Artifact, Store
from qdbev.quantization import MacLine, Plan, Site, choose_bits, quantized_layers, size_bytes

Call = Callable[..., dict[str, Any]]
PLAN = ("sensitivity", "--plan", "--budget", "size=0.13", "--candidates", "2,4,8")


@pytest.fixture(scope="module")
def usual_model(mite: str) -> str:
    return mite


@pytest.fixture(scope="module")
def settings(tiny_synthetic: Path) -> list[str]:
    return [
        f"data.source={tiny_synthetic}",
        "data.train_scenes=3",
        "data.val_scenes=1",
        "calibration.samples=2",
        "bit_plan.samples=1",
        "bit_plan.probes=1",
        "quantization.training_rounding=nearest",
        "quantization.training_observer=minmax",
        "qat.steps_per_stage=1",
        "qat.batch_size=1",
        "distillation.schedule.steps=0",
        "evaluation.bootstrap_resamples=2",
        "evaluation.max_boxes=30",
    ]


@pytest.fixture(scope="module")
def made(call: Call) -> dict[str, Any]:
    return call(*PLAN)


@pytest.fixture(scope="module")
def content(made: dict[str, Any]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((Path(made["artifact"]["path"]) / "bit-plan.json").read_text())
    return document


def test_a_plan_keeps_its_budget_and_is_predicted_to_lose_less(content: dict[str, Any]) -> None:
    assert content["share"]["size"] <= 0.13
    assert content["uniform"]["W4A6"]["share"]["size"] == pytest.approx(0.125)
    assert content["predicted_loss"] < content["uniform"]["W4A6"]["predicted_loss"]
    assert content["predicted_loss"] == pytest.approx(sum(one["loss"] for one in content["layers"]))
    assert {one["weight_bits"] for one in content["layers"]} <= {2, 4, 8}
    assert {one["activation_bits"] for one in content["layers"]} == {6, 32}  # 32: embedding tables have no inputs


def test_losses_are_measured_for_every_layer_and_fall_with_bits(content: dict[str, Any]) -> None:
    losses = {(one["path"], one["bits"]): one["loss"] for one in content["losses"]}
    paths = {one["path"] for one in content["layers"]}
    assert set(losses) == {(path, bits) for path in paths for bits in (2, 4, 8)}
    assert all(loss >= 0 for loss in losses.values())
    sums = [sum(losses[path, bits] for path in paths) for bits in (2, 4, 8)]
    assert sums[0] > 4 * sums[1] > 16 * sums[2] > 0


def test_the_result_says_how_to_go_on(made: dict[str, Any], store: Path, call: Call) -> None:
    artifact = Store(store).open(made["artifact"]["digest"])
    assert artifact.manifest.parents["float"] and artifact.file("pareto.png").read_bytes().startswith(b"\x89PNG")
    assert len(artifact.manifest.data["calibration_tokens"]) == 2  # type: ignore[arg-type]
    assert f"--plan {artifact.digest[:12]}" in made["messages"][-1]
    assert [row[0] for row in made["tables"][0]["rows"]] == ["backbone", "neck", "encoder", "decoder", "all"]
    assert call(*PLAN)["artifact"] == made["artifact"]


def test_calibration_takes_the_plan_by_any_name(
    made: dict[str, Any], content: Any, store: Path, call: Call, mite: str
) -> None:
    names = [made["artifact"]["digest"][:12], Path(made["artifact"]["path"]).name, "bit-plan:w4a6-mite"]
    outcomes = [call("calibrate", "--set", f'quantization.plan="{name}"') for name in names]
    assert len({one["artifact"]["digest"] for one in outcomes}) == 1
    artifact = Store(store).open(outcomes[0]["artifact"]["digest"])
    assert artifact.manifest.parents["plan"] == made["artifact"]["digest"]
    words = [f'quantization.plan="{made["artifact"]["digest"]}"']
    profile = profiles.load("w4a6", model=mite, overrides=words)
    layers = quantized_layers(load_quantized(artifact, profile=profile).detector)
    wanted = {one["path"]: (one["weight_bits"], one["activation_bits"]) for one in content["layers"]}
    assert {path: (one.site.weight_bits, one.site.activation_bits) for path, one in layers.items()} == wanted
    for path, layer in layers.items():
        assert {weight.quantizer.bits for weight in layer.quantized_weights()} == {wanted[path][0]}


def test_size_and_operations_of_the_model_are_those_of_the_plan(made: dict[str, Any], content: Any, call: Call) -> None:
    uniform = call("calibrate")["metrics"]
    mixed = call("calibrate", "--set", f'quantization.plan="{made["artifact"]["digest"]}"')["metrics"]
    same = content["uniform"]["W4A6"]["share"]
    assert "mean_bits" not in uniform and mixed["mean_bits"] == pytest.approx(content["mean_bits"])
    assert mixed["size_nominal_mb"] / uniform["size_nominal_mb"] == pytest.approx(
        content["share"]["size"] / same["size"]
    )
    assert mixed["gbops"]["total"] / uniform["gbops"]["total"] == pytest.approx(content["share"]["bops"] / same["bops"])


def test_data_free_quantization_takes_the_plan_too(made: dict[str, Any], content: Any, call: Call) -> None:
    words = ["--method", "dfq", "--set", "calibration.bias_correction=none"]
    mixed = call("calibrate", *words, "--set", f'quantization.plan="{made["artifact"]["digest"]}"')
    assert mixed["metrics"]["mean_bits"] == pytest.approx(content["mean_bits"])


def test_compress_takes_the_plan_through_training_and_into_the_tables(
    made: dict[str, Any], content: Any, store: Path, call: Call
) -> None:
    done = call("compress", "--plan", made["artifact"]["digest"][:10], "--stages", "1")
    label = f"mixed W{content['mean_bits']['weights']:.1f}A6.0"
    assert [one["bits"] for one in done["metrics"].values()] == ["W32A32", label, label]
    trained = next(one for one in Store(store).list() if one.manifest.kind == "qat")
    structure = json.loads(trained.file("structure.json").read_text())
    bits = {site["path"]: site["weight_bits"] for site in structure["plan"]["sites"] if site["weight_bits"] < 32}
    assert bits == {one["path"]: one["weight_bits"] for one in content["layers"]}
    share = trained.manifest.metrics["size_nominal_mb"] * 2**20 / done["metrics"]["float"]["nominal_bytes"]  # type: ignore[operator]
    assert share == pytest.approx(content["share"]["size"])


def test_another_budget_is_met_from_the_same_losses(made: dict[str, Any], content: Any, call: Call) -> None:
    other = call("sensitivity", "--plan", "--budget", "size=0.1", "--candidates", "2,4,8")
    assert other["messages"][0] == f"chosen from {len(content['losses'])} losses of an earlier plan"
    second = json.loads((Path(other["artifact"]["path"]) / "bit-plan.json").read_text())
    assert second["losses"] == content["losses"] and second["share"]["size"] <= 0.1
    assert second["predicted_loss"] > content["predicted_loss"]


def test_packed_bytes_are_those_of_the_sealed_file(call: Call, store: Path, content: dict[str, Any]) -> None:
    first = planned(call, "--budget", "size=400kB")
    assert first["losses"] == content["losses"] and first["packed_bytes"] <= 400_000
    bits = {"predicted_loss", "layers"}
    again = planned(call, "--budget", f"bytes={first['packed_bytes']}")
    assert {name: again[name] for name in bits} == {name: first[name] for name in bits}
    less = planned(call, "--budget", f"bytes={first['packed_bytes'] - 1}")
    assert less["packed_bytes"] < first["packed_bytes"] and less["predicted_loss"] >= first["predicted_loss"]
    sealed = call("calibrate", "--set", f'quantization.plan="{less["digest"]}"')["artifact"]
    tensors = load_file(Store(store).open(sealed["digest"]).file("model.safetensors"))
    assert size_bytes(tensors) == less["packed_bytes"]


def planned(call: Call, *words: str) -> dict[str, Any]:
    """What a plan from the losses of the first one says, and its digest."""
    made = call("sensitivity", "--plan", "--candidates", "2,4,8", *words)
    content: dict[str, Any] = json.loads((Path(made["artifact"]["path"]) / "bit-plan.json").read_text())
    return content | {"digest": made["artifact"]["digest"]}


def test_two_budgets_choose_inputs_too(call: Call) -> None:
    made = call("sensitivity", "--plan", "--budget", "size=0.2", "--budget", "bops=0.03", "--candidates", "4,8")
    content = json.loads((Path(made["artifact"]["path"]) / "bit-plan.json").read_text())
    assert content["share"]["size"] <= 0.2 and content["share"]["bops"] <= 0.03
    assert {one["tensors"] for one in content["losses"]} == {"weights", "inputs"}
    assert {one["activation_bits"] for one in content["layers"]} == {4, 8, 32}


def test_a_budget_of_latency_is_met_from_a_table(call: Call, content: dict[str, Any], tmp_path: Path) -> None:
    file, running = tmp_path / "table.csv", [one for one in content["layers"] if one["macs"]]
    pairs = [(32, 32), (4, 4), (4, 8), (8, 4), (8, 8)]
    lines = [f"{one['path']},{w},{a},{one['macs'] * w * a / 1e8}" for one in running for w, a in pairs]
    lines += [f"sampling,32,32,{sum(one['macs'] for one in running) * 1024e-9}"]  # a tenth of the layers
    words = ["sensitivity", "--plan", "--budget", "latency=0.12", "--candidates", "4,8"]
    words += ["--set", f"bit_plan.latency_table={file}"]
    assert "cannot be read" in call(*words, code=3)["error"]
    file.write_text("\n".join(["path,weight_bits,activation_bits,milliseconds", *lines[5:]]))
    assert (
        f"lacks 5 of {5 * len(running)} rows that this plan needs: {running[0]['path']} at"
        in call(*words, code=2)["error"]
    )
    file.write_text("\n".join(["path,weight_bits,activation_bits,milliseconds", *lines]))
    made = call(*words)
    plan = json.loads((Path(made["artifact"]["path"]) / "bit-plan.json").read_text())
    table = {tuple(line.split(",")[:3]): float(line.split(",")[3]) for line in lines}
    taken = sum(
        table[one["path"], str(one["weight_bits"]), str(one["activation_bits"])]
        for one in plan["layers"]
        if one["macs"]
    )
    taken += table["sampling", "32", "32"]
    assert plan["milliseconds"] == pytest.approx(taken) and plan["share"]["latency"] <= 0.12
    assert taken <= 0.12 * sum(table[path, w, a] for path, w, a in table if w == "32") * (1 + 1e-9)
    assert {one["activation_bits"] for one in plan["layers"]} == {4, 8, 32}
    file.write_text(file.read_text() + "\n")
    assert call(*words)["artifact"] == made["artifact"]  # what it says decides, not its bytes


def test_traces_of_the_hessian_weigh_weights_alone(call: Call) -> None:
    words = ("--plan", "--budget", "bops=0.02", "--candidates", "2,8", "--criterion", "hessian")
    made, other = call("sensitivity", *words), call("sensitivity", *words, "--set", "bit_plan.probes=2")
    first, second = (json.loads((Path(one["artifact"]["path"]) / "bit-plan.json").read_text()) for one in (made, other))
    assert first["traces"].keys() == second["traces"].keys() and first["traces"] != second["traces"]
    assert {one["tensors"] for one in first["losses"]} == {"weights"} and first["share"]["bops"] <= 0.02
    assert sum(one["loss"] for one in first["losses"] if one["bits"] == 2) > sum(
        one["loss"] for one in first["losses"] if one["bits"] == 8
    )


def test_the_samples_a_plan_was_chosen_on_are_not_scored(made: dict[str, Any], store: Path, call: Call) -> None:
    plan = f'quantization.plan="{made["artifact"]["digest"]}"'
    calibrated = call("calibrate", "--set", plan, "--set", "calibration.seed=1")
    artifact, chosen = (Store(store).open(one["artifact"]["digest"]) for one in (calibrated, made))
    tokens, of_plan = (one.manifest.data["calibration_tokens"] for one in (artifact, chosen))
    assert set(of_plan) < set(tokens)  # type: ignore[arg-type]


def test_a_table_measured_with_a_plan_is_labelled_by_it(tmp_path: Path) -> None:
    profile = profiles.load("w4a6", overrides=["quantization.plan=bit-plan:w4a6-nano"])
    write = lambda folder: (folder / "a.json").write_text("{}") and None  # noqa: E731
    artifact = Store(tmp_path).seal("sensitivity", profile=profile, key="5" * 64, write=write)
    assert bits_label(artifact) == "mixed bits of plan bit-plan:w4a"


# -- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--plan"], "a bit plan needs a budget: give --budget size=0.125"),
        (["--plan", "--budget", "speed=5"], "--budget is 'speed=5'; it must be size, bops or latency"),
        (["--plan", "--budget", "bops=5MB"], "--budget is 'bops=5MB'"),
        (["--plan", "--budget", "size=1.5"], "bit_plan.size is 1.5"),
        (["--plan", "--budget", "bytes=0"], "bit_plan.bytes is 0"),
        (["--plan", "--budget", "size=0.1", "--set", "bit_plan.bytes=many"], "allowed: a number of bytes, such as"),
        (["--plan", "--budget", "latency=0.5"], "name a file by --set bit_plan.latency_table=FILE"),
        (["--plan", "--budget", "size=0.1", "--candidates", "8,4"], "bit_plan.candidates"),
        (["--plan", "--budget", "size=0.1", "--profile", "float"], "quantizes nothing"),
        (["--plan", "--budget", "size=0.1", "--set", "quantization.plan=abcd"], "quantization.plan decides bits"),
        (["--plan", "--budget", "size=0.1", "--set", "quantization.first_last_bits=8"], "first_last_bits decides bits"),
        (["--plan", "--budget", "size=0.1", "--set", "calibration.method=gptq"], "with method ptq alone, not gptq"),
        (["--budget", "size=0.1"], "give --plan too"),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, list) else "",
)
def test_what_no_plan_can_be_made_of(call: Call, words: list[str], sentence: str) -> None:
    assert sentence in call("sensitivity", *words, code=2)["error"]


def test_a_budget_that_no_bits_reach_says_which_they_reach(call: Call) -> None:
    refused = call("sensitivity", "--plan", "--budget", "size=0.05", "--candidates", "4,8", code=2)["error"]
    assert "size=0.05 cannot be kept" in refused and "takes 0.1250 of the float one" in refused
    refused = call("sensitivity", "--plan", "--budget", "bytes=20kB", "--candidates", "2,8", code=2)["error"]
    assert "bytes=20000 cannot be kept" in refused and "give that or more" in refused


def test_a_dry_run_says_what_would_be_measured(call: Call) -> None:
    steps = call("sensitivity", "--plan", "--budget", "size=0.13", "--budget", "bops=0.02", "--dry-run")["would_do"]
    assert "each layer's weights and inputs alone at 2, 3, 4, 6, 8 bits" in steps[0]
    assert "size at most 0.13 and bops at most 0.02" in steps[1]
    steps = call("sensitivity", "--plan", "--budget", "size=0.13", "--budget", "size=36MB", "--dry-run")["would_do"]
    assert steps[1].endswith("with size at most 0.13 of the float one and at most 36000000 packed bytes")


def test_a_dry_run_counts_the_evaluations(call: Call, content: dict[str, Any]) -> None:
    words = ("--plan", "--budget", "size=0.13", "--criterion", "nds", "--candidates", "2,4,8", "--dry-run")
    layers, read = len(content["layers"]), sum(one["activation_bits"] < 32 for one in content["layers"])
    step = call("sensitivity", *words)["would_do"][1]
    assert f"{1 + 3 * layers} evaluations on 4 scenes of the train split" in step
    step = call("sensitivity", *words, "--budget", "bops=0.02")["would_do"][1]
    assert f"{1 + 3 * (layers + read)} evaluations" in step


def sealed(store: Store, *, layers: list[dict[str, Any]], key: int, kind: str = "bit-plan") -> Artifact:
    return store.seal(
        kind,
        profile=profiles.load("w4a6"),
        key=str(key) * 64,
        write=lambda folder: (folder / "bit-plan.json").write_text(json.dumps({"layers": layers})) and None,
    )


def test_a_plan_of_another_model_is_refused_by_its_first_layer(content: Any, store: Path, call: Call) -> None:
    layers = [one for one in content["layers"] if one["path"] != "img_neck.fpn_convs.0.conv"]
    fewer = sealed(Store(store), layers=layers, key=1)
    refused = call("calibrate", "--set", f'quantization.plan="{fewer.digest}"', code=2)["error"]
    assert "the bit plan has no bits for img_neck.fpn_convs.0.conv" in refused and "another model" in refused
    more = sealed(Store(store), layers=[*content["layers"], {**layers[0], "path": "img_neck.other"}], key=2)
    refused = call("calibrate", "--set", f'quantization.plan="{more.digest}"', code=2)["error"]
    assert "the bit plan gives bits to img_neck.other, which is no quantized layer here" in refused


def test_what_is_no_plan_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    other = sealed(store, layers=[], key=3, kind="qat")
    profile = profiles.load("w4a6", overrides=[f'quantization.plan="{other.digest}"'])
    with pytest.raises(ValueError, match="is a qat artifact, which holds no bit plan; `qdbev sensitivity --plan`"):
        Job(profile, store).profile  # noqa: B018
    with pytest.raises(ValueError, match="is a qat artifact"):
        Job(profile, store).bits  # noqa: B018


def test_a_plan_that_is_not_there_exits_3(call: Call) -> None:
    assert "there is no artifact 'bit-plan:nothing'" in call("compress", "--plan", "bit-plan:nothing", code=3)["error"]


def test_a_plan_is_found_once_and_its_digest_stays(tmp_path: Path) -> None:
    store = Store(tmp_path)
    plan = sealed(store, layers=[{"path": "a", "weight_bits": 3, "activation_bits": 6}], key=4)
    named = profiles.load("w4a6", overrides=["quantization.plan=bit-plan:w4a6-nano"])
    job = Job(named, store)
    assert job.profile.quantization.plan == plan.digest and job.of(job.profile).profile == job.profile
    assert job.bits == {"a": (3, 6)}
    uniform = Job(profiles.load("w4a6"), store)
    assert uniform.profile is uniform.stated and uniform.bits is None and uniform.plan_tokens == []


@pytest.mark.parametrize(("word", "field"), [("quantization.first_last_bits=8", "first_last_bits"), ("", "")])
def test_a_plan_decides_all_bits_alone(word: str, field: str) -> None:
    words = ["quantization.plan=abcd", *([word] if word else [])]
    if not word:
        assert profiles.load("w4a6", overrides=words).quantization.label == "mixed bits of plan abcd"
        return
    with pytest.raises(ValueError, match=f"{field} must be null where plan"):
        profiles.load("w4a6", overrides=words)


# -- what decides a plan -------------------------------------------------------------------------------------------


def key(*words: str) -> str:
    profile = profiles.load("w4a6", overrides=["bit_plan.size=0.1", *words])
    measured = losses_key(profile, tensors=measured_tensors(profile), source="float", data="train", tokens=["a"])
    return plan_key(measured, profile=profile, times={})


@pytest.mark.parametrize(
    "word",
    [
        "bit_plan.size=0.2",
        "bit_plan.bops=0.1",
        "bit_plan.bytes=700000",
        "bit_plan.latency=0.5",
        "bit_plan.observer=training",
        "bit_plan.candidates=[2,8]",
        "bit_plan.criterion=hessian",
        "bit_plan.samples=3",
        "quantization.weight_observer=mse",
        "calibration.seed=2",
    ],
)
def test_what_decides_a_plan_is_in_its_key(word: str) -> None:
    assert key(word) != key()


@pytest.mark.parametrize("word", ["bit_plan.scenes=3", "evaluation.max_boxes=7"])
def test_what_is_scored_decides_drops_of_nds_alone(word: str) -> None:
    assert key(word) == key()
    assert key(word, "bit_plan.criterion=nds") != key("bit_plan.criterion=nds")


def test_what_a_latency_table_says_decides_a_plan_wherever_it_lies() -> None:
    profile = profiles.load("w4a6", overrides=["bit_plan.latency=0.5"])
    times = [{"latency_table": table_digest({Timed("a", 8, 8): time})} for time in (1, 2)]
    assert len({plan_key("", profile=profile, times=stated) for stated in ({}, *times)}) == 3
    assert key("bit_plan.latency_table=here.csv") == key()


@pytest.mark.parametrize("word", ["seed=1", "bit_plan.probes=3"])
def test_what_draws_the_probes_decides_traces_alone(word: str) -> None:
    assert key(word) == key()
    assert key(word, "bit_plan.criterion=hessian") != key("bit_plan.criterion=hessian")


def test_a_target_is_offered_what_it_executes_alone(content: dict[str, Any], call: Call) -> None:
    plans = {}
    for target in ("ort", "qnn"):
        made = call(*PLAN[:2], "--budget", "size=0.242", *PLAN[4:], "--target", target)
        plans[target] = json.loads((Path(made["artifact"]["path"]) / "bit-plan.json").read_text())
        assert plans[target]["target"] == target and "earlier plan" in made["messages"][0]
        assert plans[target]["losses"] == content["losses"]
    assert {one["weight_bits"] for one in plans["ort"]["layers"]} == {4, 8}  # 2 bits have no type in ONNX
    bits = {one["path"]: (one["weight_bits"], one["activation_bits"]) for one in plans["qnn"]["layers"]}
    assert bits["img_backbone.conv1"] == (8, 8)  # 7x7; inputs of six bits run as bytes
    assert {weights for weights, _ in bits.values()} == {4, 8} and {inputs for _, inputs in bits.values()} == {8, 32}
    assert "target" not in content


def test_a_target_that_executes_no_candidate_is_refused(call: Call) -> None:
    words = [*PLAN[:4], "--candidates", "2,4", "--target", "tensorrt"]
    refused = call(*words, code=2)
    assert (
        "tensorrt executes 8 bits of img_backbone.conv1, and candidates are 2, 4: give --candidates" in refused["error"]
    )
    assert "give --plan too" in call("sensitivity", "--target", "ort", code=2)["error"]


def test_the_target_decides_the_plan() -> None:
    names = ("ort", "qnn")
    stated = [profiles.load("w4a6", overrides=[f"bit_plan.target={name}"]) for name in names]
    assert len({plan_key("", profile=profile, times={}) for profile in (*stated, profiles.load("w4a6"))}) == 3


def toy_problem(*words: str) -> Any:
    """Two layers of 10 and 30 weights, 1 and 100 MACs, a table; 50 trainable parameters."""
    common: dict[str, Any] = {"part": "neck", "weight_bits": 4, "reason": ""}
    sites = (
        Site(path="a", kind="linear", activation_bits=6, **common),
        Site(path="b", kind="linear", activation_bits=6, **common),
        Site(path="t", kind="embedding", activation_bits=32, **common),
    )
    weights = {"a": 10, "b": 30, "t": 4}
    losses = {Choice(path, "weights", bits): 1.0 / bits for path in weights for bits in (2, 4, 8)}
    losses |= {Choice(path, "inputs", bits): 0.5 / bits for path in ("a", "b") for bits in (2, 4, 8)}
    return make_problem(
        Plan(sites=sites, parts=("neck",)),
        losses=losses,
        weights=weights,
        macs=[
            MacLine(path="a", kind="linear", macs=1, calls=1),
            MacLine(path="b", kind="linear", macs=100, calls=1),
            MacLine(path="f", kind="linear", macs=9, calls=1),
        ],
        trainable=50,
        profile=profiles.load("w4a6", overrides=["bit_plan.candidates=[2,4,8]", *words]),
    )


def test_costs_are_those_of_the_report() -> None:
    problem = toy_problem("bit_plan.size=0.5")
    assert (problem.fixed, problem.whole) == ({"size": 6 * 4, "bops": 9 * 1024}, {"size": 1600, "bops": 110 * 1024})
    uniform = {path: each[1] for path, each in problem.options.items()}
    assert problem.share(uniform, resource="size") == 0.125
    assert problem.share(uniform, resource="bops") == (24 * 101 + 9 * 1024) / (110 * 1024)


def test_inputs_are_chosen_where_their_operations_are_limited() -> None:
    sizes = {word: {path: len(each) for path, each in toy_problem(word).options.items()} for word in WORDS}
    assert sizes == {WORDS[0]: {"a": 3, "b": 3, "t": 3}, WORDS[1]: {"a": 9, "b": 9, "t": 3}}
    chosen = choose_bits(toy_problem(WORDS[1]), budgets={"bops": 0.1})
    assert chosen["a"].activation_bits == 8 and chosen["b"].activation_bits < 8


WORDS = ("bit_plan.size=0.5", "bit_plan.bops=0.5")
