"""bf16 where the CPU does not compute in it is said before the first step; everywhere else nothing is."""

from __future__ import annotations

import logging

import pytest
import torch

import profiles
from pipelines.training.run import warn_of_slow_precision


@pytest.mark.parametrize(
    ("precision", "device", "supported", "warned"),
    [
        ("bf16", "cpu", False, True),
        ("bf16", "cpu", True, False),
        ("fp32", "cpu", False, False),
        ("bf16", "cuda", False, False),
    ],
)
def test_slow_bf16_is_said(
    precision: str,
    device: str,
    supported: bool,
    warned: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    schedule = profiles.load("float", overrides=[f"float_training.precision={precision}"]).float_training
    with caplog.at_level(logging.WARNING):
        warn_of_slow_precision(schedule, device=torch.device(device))
    assert ["set precision=fp32" in record.getMessage() for record in caplog.records] == [True] * warned
