"""Calibration samples through one part: its layers see what a whole run shows them, in every call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import profiles
from pipelines.assembly.job import Job
from pipelines.assembly.quantized import Quantized, quantized_from_float
from pipelines.assembly.weights import float_detector
from pipelines.calibration.observing import observe, run_samples
from pipelines.calibration.part_run import PartRun
from pipelines.store.artifacts import Store
from profiles.sections.schedule import PARTS
from qdbev.quantization import quantized_layers


@pytest.fixture(scope="module")
def job(tiny_synthetic: Path, mite: str, tmp_path_factory: pytest.TempPathFactory) -> Job:
    settings = [f"data.source={tiny_synthetic}", "data.train_scenes=3", "data.val_scenes=1", "device=cpu"]
    profile = profiles.load("w4a6", model=mite, overrides=[*settings, "calibration.samples=6"])
    return Job(profile, Store(tmp_path_factory.mktemp("runs")))


@pytest.fixture(scope="module")
def quantized(job: Job) -> Quantized:
    detector, _ = float_detector(job)
    quantized = quantized_from_float(detector, profile=job.profile, split=job.split("train"))
    observe(quantized, job=job)
    return quantized


def seen(detector: nn.Module, *, part: str, run: Callable[[], None]) -> tuple[list[Tensor], set[str]]:
    """What layers of a part are given in a run, and the parts of all layers that are called."""
    inputs: list[Tensor] = []
    called: set[str] = set()

    def note(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        called.add(layer.site.part)  # type: ignore[union-attr, arg-type]
        inputs.extend(tensor.clone() for tensor in given if layer.site.part == part)  # type: ignore[union-attr]

    handles = [layer.register_forward_pre_hook(note) for layer in quantized_layers(detector).values()]
    run()
    for handle in handles:
        handle.remove()
    return inputs, called


@pytest.mark.parametrize(("part", "most_bytes"), [*((part, 1 << 30) for part in PARTS), ("encoder", 0)])
def test_layers_see_what_a_whole_run_shows(job: Job, quantized: Quantized, part: str, most_bytes: int) -> None:
    detector, place = quantized.detector, PARTS.index(part)
    quantized.switch_on(PARTS[:place])
    expected, _ = seen(detector, part=part, run=lambda: run_samples(detector, job=job))
    run = PartRun(detector, job=job, parts=[part], most_bytes=most_bytes)
    for call in range(3):
        given, called = seen(detector, part=part, run=run)
        assert len(given) == len(expected) > 0
        assert all(torch.equal(a, b) for a, b in zip(given, expected, strict=True)), call
        if call:
            assert called == ({part} if call > 1 and most_bytes else set(PARTS[: place + 1]))
        else:
            assert called == set(PARTS)


def test_what_cannot_run_step_by_step_runs_whole(
    job: Job, quantized: Quantized, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = quantized.detector
    monkeypatch.setattr(type(detector), "cannot", lambda self, ability: "it cannot")
    run = PartRun(detector, job=job, parts=["neck"])
    for _ in range(2):
        assert seen(detector, part="neck", run=run)[1] == set(PARTS)
