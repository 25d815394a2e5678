"""Calibration: which samples set the ranges, and by which method."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .document import Document


class CalibrationProfile(Document):
    """Post-training calibration on samples of the train split, in scene order."""

    method: Literal["ptq", "dfq", "gptq"] = "ptq"
    """ptq observes ranges on calibration samples; dfq (Nagel et al., ICCV 2019) equalises weights before it does; gptq
    (Frantar et al., ICLR 2023) then rounds weights so that each layer's output on these samples changes least."""
    bias_correction: Literal["none", "analytic", "empirical"] = "analytic"
    """With dfq, weights' mean error off the biases: from batch norm (analytic), or from the samples (a run a layer)."""
    samples: int = Field(default=32, ge=1)
    """Calibration samples; whole scenes are taken in order until there are enough."""
    seed: int = Field(default=0, ge=0)
    """Seed that chooses the calibration scenes; apart from the seed of training."""
