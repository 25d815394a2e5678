"""Calibration: which samples set the ranges, and by which method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from profiles.document import Document

CalibrationMethod = Literal["ptq", "dfq", "gptq", "adaround", "brecq", "qdrop"]


class CalibrationProfile(Document):
    """Post-training calibration on samples of the train split, in scene order."""

    later: ClassVar[frozenset[str]] = frozenset({"adaround_target", "iterations", "learning_rate", "smoothing"})
    read_where: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]] = {
        "iterations": ("method", ("adaround", "brecq", "qdrop")),
        "learning_rate": ("method", ("adaround", "brecq", "qdrop")),
        "adaround_target": ("method", ("adaround",)),
        "bias_correction": ("method", ("dfq",)),
    }

    method: CalibrationMethod = "ptq"
    """ptq observes ranges on calibration samples; dfq (Nagel et al., ICCV 2019) equalises weights before it does; gptq
    (Frantar et al., ICLR 2023) then rounds weights so that each layer's output on these samples changes least; adaround
    (Nagel et al., ICML 2020) learns their rounding to that end; brecq (Li et al., ICLR 2021) learns it, and the ranges
    of activations, for each block's output; qdrop (Wei et al., ICLR 2022) so too, activations at random in float."""
    bias_correction: Literal["none", "analytic", "empirical"] = "analytic"
    """With dfq, weights' mean error off the biases: from batch norm (analytic), or from the samples (a run a layer)."""
    smoothing: float | None = Field(default=None, ge=0, le=1)
    """Before any method, scales of LayerNorm channels that linear layers alone read go into their weights, by this
    exponent (alpha of SmoothQuant, Xiao et al., ICML 2023, which has 0.5); null: they stay."""
    iterations: int = Field(default=400, ge=1, le=10**6)
    """Gradient steps of adaround for each layer, of brecq and qdrop for each block."""
    learning_rate: float = Field(default=0.03, gt=0, le=1000)
    """Of the roundings that adaround, brecq and qdrop learn; brecq's and qdrop's activation ranges have a tenth."""
    adaround_target: Literal["same_inputs", "float"] = "same_inputs"
    """What adaround brings a layer's output near to: what float weights make of the same quantized inputs, or what the
    float network has there (the paper's asymmetric form)."""
    samples: int = Field(default=32, ge=1, le=10**6)
    """Calibration samples; whole scenes are taken in order until there are enough."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed that chooses the calibration scenes, and what brecq and qdrop draw; apart from the seed of training."""

    @property
    def label(self) -> str:
        """What is done, in words: ``ptq`` where weights and biases stay as they are."""
        return self.method if self.smoothing is None else f"{self.method} with smoothing"
