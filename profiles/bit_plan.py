"""Bit plans: how the bits of each layer are chosen together (HAWQ-V3, Yao et al., ICML 2021)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from .document import Document

CandidateBits = Literal[2, 3, 4, 5, 6, 7, 8]
Share = float | None


class BitPlanProfile(Document):
    """What ``sensitivity --plan`` chooses from, by what measure and under which budgets."""

    criterion: Literal["output", "hessian"] = "output"
    """What a layer's bits cost: output, how far the detector's boxes move with that layer alone quantized; hessian, the
    weights' error times the mean trace of the detection loss (HAWQ-V2), for weights alone."""
    candidates: tuple[CandidateBits, ...] = Field(default=(2, 3, 4, 6, 8), min_length=1)
    """Bits to choose from, for weights and, under a budget of bit operations, for activations."""
    size: Share = Field(default=None, gt=0, le=1)
    """Nominal size allowed, as a share of the float model's (W4 is 0.125); null does not limit it."""
    bops: Share = Field(default=None, gt=0, le=1)
    """Bit operations allowed, as a share of the float model's; null leaves activations at the profile's bits."""
    samples: int = Field(default=8, ge=1)
    """Samples that are compared or whose loss is taken, spread over the calibration samples."""
    probes: int = Field(default=16, ge=1)
    """With hessian, random vectors of the estimated traces."""

    @field_validator("candidates")
    @classmethod
    def _in_order(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError("must be rising numbers of bits, each once, such as 2, 3, 4, 6, 8")
        return value

    @property
    def budgets(self) -> dict[Literal["size", "bops"], float]:
        """The shares that are limited."""
        limits: dict[Literal["size", "bops"], float] = {}
        if self.size is not None:
            limits["size"] = self.size
        if self.bops is not None:
            limits["bops"] = self.bops
        return limits
