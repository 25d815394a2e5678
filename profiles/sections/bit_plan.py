"""Bit plans: how the bits of each layer are chosen together (HAWQ-V3, Yao et al., ICML 2021)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import ByteSize, Field, field_validator

from profiles.document import Document

Criterion = Literal["output", "hessian", "nds"]
CandidateBits = Literal[2, 3, 4, 5, 6, 7, 8]
Target = Literal["ort", "openvino", "tensorrt", "qnn", "qonnx"]
Share = float | None
Budget = Literal["size", "bytes", "bops", "latency"]
_BUDGETS: tuple[Budget, ...] = ("size", "bytes", "bops", "latency")


class BitPlanProfile(Document):
    """What ``sensitivity --plan`` chooses from, by what measure and under which budgets."""

    outside_digest: ClassVar[frozenset[str]] = frozenset({"latency_table"})
    later: ClassVar[frozenset[str]] = frozenset({"bytes", "latency", "observer", "scenes", "target"})

    criterion: Criterion = "output"
    """What a layer's bits cost: output, how far the detector's boxes move with that layer alone quantized; hessian, the
    weights' error times the mean trace of the detection loss (HAWQ-V2), for weights alone; nds, the measured drop."""
    candidates: tuple[CandidateBits, ...] = Field(default=(2, 3, 4, 6, 8), min_length=1)
    """Bits to choose from, for weights and, under a budget of bit operations or latency, for activations."""
    size: Share = Field(default=None, gt=0, le=1)
    """Nominal size allowed, as a share of the float model's (W4 is 0.125); null does not limit it."""
    bytes: ByteSize | None = Field(default=None, gt=0)
    """Packed tensors allowed, in bytes (700000, 36MB, 1.5MiB); null does not limit them."""
    bops: Share = Field(default=None, gt=0, le=1)
    """Bit operations allowed, as a share of the float model's; null leaves activations at the profile's bits."""
    latency: Share = Field(default=None, gt=0, le=1)
    """Latency allowed, as a share of that of the widest bits in latency_table; null does not limit it."""
    latency_table: str | None = None
    """A CSV or JSON file of measured milliseconds by layer, weight bits and activation bits; latency needs it."""
    target: Target | None = None
    """Who is to run the detector: only bits that it executes are chosen from; null offers all candidates."""
    observer: Literal["calibration", "training"] = "calibration"
    """Ranges that losses are measured with: those of calibration, or those that training starts from."""
    samples: int = Field(default=8, ge=1, le=10**6)
    """Samples that are compared or whose loss is taken, spread over the calibration samples."""
    scenes: int = Field(default=4, ge=1, le=1000)
    """With nds, whole scenes of the train split that each choice is scored on, drawn as calibration draws them."""
    probes: int = Field(default=16, ge=1, le=10**6)
    """With hessian, random vectors of the estimated traces."""

    @field_validator("candidates")
    @classmethod
    def _in_order(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError("must be rising numbers of bits, each once, such as 2, 3, 4, 6, 8")
        return value

    @property
    def budgets(self) -> dict[Budget, float]:
        """What is limited: shares, and a number of bytes."""
        return {name: value for name in _BUDGETS if (value := getattr(self, name)) is not None}
