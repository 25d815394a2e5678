"""Rounding keeps its rounds in the scratch of a store: a process that was stopped goes on, to the same digits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import profiles
from pipelines.assembly.job import Job
from pipelines.calibration.kept_rounds import KeptRounds
from pipelines.calibration.reconstruction import reconstruct_blocks
from pipelines.calibration.rounding import compensate, learn_rounding
from pipelines.lineage.kinds import QAT
from pipelines.store.artifacts import Store
from pipelines.store.integrity import UnusableInput
from qdbev.quantization import make_plan, observing, quantize
from qdbev.quantization.layers.grids import WeightGrid

KEY = "a" * 64
IMAGE = torch.linspace(-1, 1, 60).reshape(5, 12)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    quantize(
        model,
        make_plan(model, parts={"neck": ["0", "2", "4"]}, weight_bits=3, activation_bits=8),
        weights=WeightGrid(follow=False),
    )
    with observing(model):
        model(IMAGE)
    return model


def rounded(keeper: KeptRounds, *, stop_in_run: int = 0) -> tuple[nn.Sequential, int]:
    """The network, and how often the samples ran."""
    model, runs = network(), 0

    def run() -> None:
        nonlocal runs
        runs += 1
        if runs == stop_in_run:
            raise KeyboardInterrupt
        model(IMAGE)

    compensate(model, run=run, parts=["neck"], keeper=keeper)
    return model, runs


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(profiles.load("w4a6"), Store(tmp_path))


def test_what_was_stopped_goes_on_to_the_same_digits(job: Job, tmp_path: Path) -> None:
    whole, runs = rounded(KeptRounds(Job(job.profile, Store(tmp_path / "other")), QAT, key=KEY))
    assert runs == 4  # in float, then once a layer
    with pytest.raises(KeyboardInterrupt):
        rounded(KeptRounds(job, QAT, key=KEY), stop_in_run=3)
    again, runs = rounded(KeptRounds(job, QAT, key=KEY))
    assert runs == 2
    for (name, value), other in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    assert rounded(KeptRounds(job, QAT, key=KEY))[1] == 0  # until the artifact is sealed
    job.store.discard_scratch(QAT, key=KEY)
    assert rounded(KeptRounds(job, QAT, key=KEY))[1] == 4


@pytest.mark.parametrize("method", ["adaround", "brecq", "qdrop"])
def test_learned_rounding_that_was_stopped_goes_on_to_the_same_digits(job: Job, tmp_path: Path, method: str) -> None:
    words = [f"calibration.method={method}", "calibration.iterations=4"]
    section = profiles.load("w4a6", overrides=words).calibration

    def learned(keeper: KeptRounds, *, stop_in_run: int = 0) -> tuple[nn.Sequential, int]:
        model, runs = network(), 0

        def run(detector: nn.Module) -> None:
            nonlocal runs
            runs += 1
            if runs == stop_in_run:
                raise KeyboardInterrupt
            detector(IMAGE)

        if method == "adaround":
            learn_rounding(model, run=run, parts=["neck"], section=section, keeper=keeper)
        else:
            drop = 0.5 if method == "qdrop" else 0.0
            reconstruct_blocks(model, run=run, parts=["neck"], section=section, drop=drop, keeper=keeper)
        return model, runs

    whole, runs = learned(KeptRounds(Job(job.profile, Store(tmp_path / "other")), QAT, key=KEY))
    with pytest.raises(KeyboardInterrupt):
        learned(KeptRounds(job, QAT, key=KEY), stop_in_run=runs)
    again, fewer = learned(KeptRounds(job, QAT, key=KEY))
    assert fewer < runs
    for (name, value), other in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(value, other), name


def test_rounds_that_were_damaged_are_refused_by_name(job: Job) -> None:
    rounded(KeptRounds(job, QAT, key=KEY))
    (state,) = job.store.scratch(QAT, key=KEY).glob("rounding/state-*")
    (state / "tensors.safetensors").write_bytes(b"")
    with pytest.raises(UnusableInput, match=f"{state.name} is damaged"):
        rounded(KeptRounds(job, QAT, key=KEY))
