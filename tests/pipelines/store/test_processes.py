"""Two processes against one with the same global batch: the same curve, the same scores, one store."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipelines.store import processes
from pipelines.store.artifacts import Store, UnusableInput
from qdbev_cli.app import app
from tests.apart import exit_code, start_two, two

SETTINGS = (
    "data.train_scenes=3",
    "data.val_scenes=2",
    "calibration.samples=2",
    "quantization.training_rounding=nearest",
    "quantization.training_observer=minmax",
    "qat.stages=2",
    "qat.steps_per_stage=1",
    "qat.log_every=1",
    "qat.evaluate_each_stage=false",
    "distillation.schedule.steps=2",
    "distillation.schedule.log_every=1",
    "distillation.auto_steps=1",
    "evaluation.bootstrap_resamples=0",
    "evaluation.max_boxes=20",
    "model.dropout=0",
)


def test_one_process_is_the_first_and_does_everything():
    assert (processes.count(), processes.number(), processes.is_first()) == (1, 0, True)
    assert processes.agreed(lambda: "found") == "found" and processes.gathered("mine") == ["mine"]
    assert processes.in_key() == {} and processes.device("cuda") == "cuda"


def test_several_processes_share_a_list_and_the_gpus(monkeypatch):
    for rank in range(3):
        for name, value in (("RANK", rank), ("WORLD_SIZE", 3), ("LOCAL_RANK", rank)):
            monkeypatch.setenv(name, str(value))
        assert processes.share(list("abcdefgh")) == [*"abcdefgh"][rank::3]
        assert (processes.device("cuda"), processes.device("cpu")) == (f"cuda:{rank}", "cpu")
        assert processes.is_first() == (rank == 0) and processes.in_key() == {"processes": 3}


@pytest.mark.parametrize(
    ("hard", "workers", "refused"), [(18, 2, True), (95, 2, True), (96, 2, False), (18, 0, False), (4096, 16, False)]
)
def test_files_are_opened_up_to_the_hard_limit_or_too_few_are_said_before(monkeypatch, hard, workers, refused):
    limits = [(10, hard)]
    monkeypatch.setattr(processes.resource, "getrlimit", lambda kind: limits[-1])
    monkeypatch.setattr(processes.resource, "setrlimit", lambda kind, pair: limits.append(pair))
    if refused:
        with pytest.raises(
            UnusableInput, match=rf"^{hard} files may be open at once, 2 loading processes take up to 96"
        ):
            processes.open_many_files(workers=workers)
    else:
        processes.open_many_files(workers=workers)
    assert limits[-1] == (hard, hard)


def test_slurms_words_become_torchruns(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    with pytest.raises(ValueError, match="SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID, which srun sets"):
        processes.launched_by_slurm()
    words = {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_STEP_NODELIST": "gpu07"}
    for name, value in words.items():
        monkeypatch.setenv(name, value)
    processes.launched_by_slurm()
    assert (processes.number(), processes.count(), processes.device("cuda")) == (5, 8, "cuda:1")
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("gpu07", "29500")


@pytest.mark.slow
def test_two_processes_train_float_weights_like_one_with_twice_the_batch(tiny_synthetic: Path, tmp_path: Path) -> None:
    settings = [f"data.source={tiny_synthetic}", "data.train_scenes=3", "data.more_seeds=[]", "model.dropout=0"]
    settings += ["float_training.steps=4", "float_training.log_every=1", "float_training.precision=fp32"]
    settings += ["float_training.auxiliary=false", "float_training.freeze_batchnorm=true"]
    settings += ["float_training.start_from=zoo", "float_training.learning_rate=1e-4"]
    curves = []
    for run, batch in ((_run, 2), (_run_two, 1)):
        store = tmp_path / f"batch{batch}"
        run("train-float", store=store, settings=[*settings, f"float_training.batch_size={batch}"])
        (trained,) = [one for one in Store(store).list() if "start" in one.manifest.parents]
        assert trained.manifest.data["processes"] == (1 if batch == 2 else 2)
        curves.append([row["loss"] for row in json.loads(trained.file("curve.json").read_text(encoding="utf-8"))])
    assert curves[1] == pytest.approx(curves[0], rel=1e-4)


@pytest.mark.slow
def test_two_processes_compress_like_one_with_twice_the_batch(tiny_synthetic: Path, mite: str, tmp_path: Path) -> None:
    """Sums in another order: a weight at the edge of a step of its grid may fall on its other side, and stays there."""
    one = _compress(tmp_path / "one", model=mite, data=tiny_synthetic, batch=2, run=_run)
    two = _compress(tmp_path / "two", model=mite, data=tiny_synthetic, batch=1, run=_run_two)
    assert two.keys() == one.keys()
    first, first_of_two = ([row["loss"] for row in found["stage 1"][0]] for found in (one, two))
    assert first_of_two[0] == pytest.approx(first[0], rel=1e-5)
    assert first_of_two == pytest.approx(first, rel=5e-3)
    for name, (curve, scores) in one.items():
        curve_of_two, scores_of_two = two[name]
        assert len(curve_of_two) == len(curve)
        assert scores_of_two.keys() == scores.keys(), name
        assert scores_of_two == pytest.approx(scores, abs=0.05, nan_ok=True), name


@pytest.mark.slow
def test_evaluation_shared_out_scene_by_scene_is_the_same(tiny_synthetic: Path, tmp_path: Path) -> None:
    settings = [f"data.source={tiny_synthetic}", "data.val_scenes=2", "evaluation.max_boxes=50"]
    alone, shared_out = (
        _scores(run("evaluate", store=tmp_path / name, settings=settings))
        for name, run in (("one", _run), ("two", partial(_run_two, device="auto")))
    )
    assert alone["NDS"] > 0
    assert shared_out == pytest.approx(alone, abs=1e-6, nan_ok=True)


def test_the_launcher_that_users_have_states_what_the_processes_here_are_told() -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--no-python"]
    told = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    stated = " ".join(f"${name}" for name in told)
    done = subprocess.run([*launcher, "bash", "-c", f"echo {stated}"], capture_output=True, text=True, check=True)
    by_torchrun = sorted(line.split() for line in done.stdout.splitlines())
    by_us = two(lambda **environment: [str(environment[name]) for name in told])
    assert [line[:3] for line in by_torchrun] == [line[:3] for line in by_us]
    assert all(len(line) == len(told) and line[4].isdigit() for line in by_torchrun)


def _scores(document: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in document["metrics"].items() if name == "NDS" or name.startswith("mA")}


def _words(command: str, *, store: Path, settings: list[str], model: str = "nano", device: str = "cpu") -> list[str]:
    options = [word for setting in settings for word in ("--set", setting)]
    return [command, "--json", "--model", model, "--store", str(store), *options, "--device", device]


def _run(command: str, *, store: Path, settings: list[str], model: str = "nano") -> dict[str, Any]:
    """What a command prints."""
    result = CliRunner().invoke(app, _words(command, store=store, settings=settings, model=model))
    assert result.exit_code == 0, result.output[-3000:]
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def _run_two(
    command: str, *, store: Path, settings: list[str], model: str = "nano", device: str = "cpu"
) -> dict[str, Any]:
    """What it prints in two processes, which is one document."""
    output = store.with_suffix(".json")
    pair = start_two(_words(command, store=store, settings=settings, model=model, device=device), output=output)
    assert [exit_code(one) for one in pair] == [0, 0], output.with_suffix(".errors").read_text()[-3000:]
    document: dict[str, Any] = json.loads(output.read_text())
    return document


def _compress(
    store: Path, *, model: str, data: Path, batch: int, run: Callable[..., dict[str, Any]]
) -> dict[str, tuple[list[dict[str, Any]], dict[str, float]]]:
    """Training curve and scores by model, of a compression into an empty store."""
    settings = [*SETTINGS, f"data.source={data}"]
    settings += [f"qat.batch_size={batch}", f"distillation.schedule.batch_size={batch}"]
    document = run("compress", store=store, settings=settings, model=model)
    names = {"vgd": "QAT+VGD"} | {f"stage {number}": f"QAT {number}/2" for number in (1, 2)}
    trained = [one for one in Store(store).list() if one.manifest.kind in ("qat", "vgd")]
    assert len(trained) == len(names)
    found = {}
    for artifact in trained:
        stage = artifact.manifest.data.get("stage")
        name = artifact.manifest.kind if stage is None else f"stage {stage}"
        curve = json.loads(artifact.file("curve.json").read_text(encoding="utf-8"))
        scores = document["metrics"].get(names[name], {})
        found[name] = curve, {key: scores[key] for key in ("NDS", "mAP") if key in scores}
    return found


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_freed_memory_is_kept():
    """Pages that the system hands out anew while 64 MB are taken and freed ten times, before and after."""
    program = """
import resource, torch
from pipelines.store.processes import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(1 << 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
first = faults()
keep_freed_memory()
faults()  # takes the memory that is then kept
print(first, faults())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert before > 1000 and after < before / 20
