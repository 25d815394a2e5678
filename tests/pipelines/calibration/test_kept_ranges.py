"""``calibrate`` that was stopped in a scene goes on behind the last sample, and ends with the same bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipelines.calibration import kept_ranges
from pipelines.calibration.kept_ranges import KeptRanges
from pipelines.store.artifacts import Store
from qdbev.quantization import InputGrid, make_plan, observe_on, observed, observing, quantize

Call = Callable[..., dict[str, Any]]
SAMPLES, STOPPED_AFTER = 6, 2  # a scene has four


@pytest.fixture(scope="module")
def usual_model(mite: str) -> str:
    return mite


@pytest.fixture(scope="module")
def settings(tiny_synthetic: Path) -> list[str]:
    return [f"data.source={tiny_synthetic}", f"calibration.samples={SAMPLES}"]


def test_stopped_and_given_again(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    keep, seen = KeptRanges.keep, list[int]()

    def stopping(kept: KeptRanges, detector: Any, *, done: int) -> None:
        keep(kept, detector, done=done)
        if done == STOPPED_AFTER:
            raise KeyboardInterrupt

    def counting(kept: KeptRanges, detector: Any, *, done: int) -> None:
        seen.append(done)

    call("calibrate", at=whole)
    assert not list(whole.glob(".scratch/*"))  # 20 s had not passed
    monkeypatch.setattr(kept_ranges, "_EVERY_S", 0.0)
    monkeypatch.setattr(KeptRanges, "keep", stopping)
    with pytest.raises(AssertionError):  # no document is printed
        call("calibrate", at=broken)
    (state,) = broken.glob(".scratch/calibration-*/ranges/state-*")
    monkeypatch.setattr(KeptRanges, "keep", counting)
    call("calibrate", at=broken)
    assert seen == list(range(STOPPED_AFTER + 1, SAMPLES + 1))
    digests = [{artifact.path.name: artifact.digest for artifact in Store(store).list()} for store in (whole, broken)]
    assert digests[0] == digests[1] and not state.exists()


def test_what_was_kept_of_other_layers_is_refused() -> None:
    first, other = [nn.Sequential(nn.Linear(3, 2)), nn.Sequential(nn.ReLU(), nn.Linear(3, 2))]
    for model in (first, other):
        quantize(model, make_plan(model, parts={"all": [""]}, weight_bits=4, activation_bits=6), inputs=InputGrid())
    with observing(first):
        first(torch.ones(1, 3))
        seen = observed(first)
        with pytest.raises(ValueError, match="of other quantizers"), observing(other):
            observe_on(other, seen)
