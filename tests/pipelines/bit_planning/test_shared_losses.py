"""Losses that several processes measure together are those of one alone."""

from __future__ import annotations

from pathlib import Path

import pytest

import profiles
from pipelines.assembly.job import Job
from pipelines.assembly.quantized import folded
from pipelines.assembly.weights import float_detector
from pipelines.bit_planning.candidates import Losses
from pipelines.bit_planning.losses import measured_losses
from pipelines.store import processes
from pipelines.store.artifacts import Store

SETTINGS = ["data.train_scenes=1", "data.val_scenes=1", "device=cpu", "calibration.samples=1", "bit_plan.samples=1"]
SETTINGS += ["bit_plan.candidates=[2,8]", "bit_plan.bops=0.03", "calibration.method=ptq"]
SETTINGS += ['quantization.float_layers=["img_*"]']  # fewer layers to measure


def test_each_process_measures_some_bits(
    tiny_synthetic: Path, mite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = profiles.load("w4a6", model=mite, overrides=[*SETTINGS, f"data.source={tiny_synthetic}"])
    job = Job(profile, Store(tmp_path))
    detector, _ = float_detector(job)
    folding = folded(detector, profile=profile, split=job.split("train"))

    def measure() -> Losses:
        return measured_losses(detector, folding, job=job, scratch=lambda: tmp_path).losses

    alone, mine = measure(), []
    monkeypatch.setattr(processes, "count", lambda: 3)
    for number in range(3):
        monkeypatch.setattr(processes, "number", lambda number=number: number)
        monkeypatch.setattr(processes, "gathered", lambda losses: mine.append(losses) or [losses])
        measure()
    monkeypatch.setattr(processes, "gathered", lambda losses: mine)
    assert [sorted({choice.bits for choice in losses}) for losses in mine] == [[2], [8], []]
    assert list(measure().items()) == list(alone.items())
