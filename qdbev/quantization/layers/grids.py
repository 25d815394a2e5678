"""How weights and inputs are put onto their grids: what all quantizers of a model have in common, beside their bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qdbev.quantization.layers.quantizer import Quantizer


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What the grids of weights and inputs both have."""

    scale_rule: str = "qdbev"
    """Step from the range: ``qdbev`` (Eq. 1) or ``hawq``."""
    narrow_range: bool = False
    """Leave out the most negative integer."""
    observer: str = "minmax"
    """What chooses the range in calibration: a kind of ``qdbev.quantization.ranges.observer_kinds``."""
    percentile: float = 99.99
    """For the percentile observer."""


@dataclass(frozen=True, kw_only=True)
class WeightGrid(Grid):
    """How weights are quantized; an impossible choice is a ValueError.

    >>> WeightGrid(observer="mse").follows, WeightGrid().follows
    (False, True)
    """

    granularity: Literal["channel", "tensor"] = "channel"
    """One scale per output channel (embedding: per row), or one for the tensor."""
    follow: bool | None = None
    """The range follows the weight that is trained; None: where the observer is minmax, the only one that can."""

    def __post_init__(self) -> None:
        if self.granularity not in ("channel", "tensor"):
            raise ValueError(f"granularity must be channel or tensor, got {self.granularity!r}")
        self.quantizer("weights", bits=8, channels=1)  # built for nothing: it refuses what is impossible

    @property
    def follows(self) -> bool:
        """Whether ranges follow their weights."""
        return self.observer == "minmax" if self.follow is None else self.follow

    def quantizer(self, name: str, *, bits: int, channels: int) -> Quantizer:
        """Return a new quantizer, off and without a range.

        Args:
            name: Its full path.
            bits: Width of the integers.
            channels: Output channels, which the quantizer gets first.
        """
        per_channel = self.granularity == "channel"
        return Quantizer(
            name=name,
            bits=bits,
            axis=0 if per_channel else None,
            channels=channels if per_channel else None,
            scale_rule=self.scale_rule,
            observer=self.observer,
            percentile=self.percentile,
            narrow_range=self.narrow_range,
            follow=self.follows,
        )


@dataclass(frozen=True, kw_only=True)
class InputGrid(Grid):
    """How the inputs of layers are quantized, one scale each; an impossible choice is a ValueError."""

    ema_momentum: float | None = None
    """Momentum with which ranges go on moving in training; None: they stay."""
    may_be_unsigned: bool = False
    """Inputs that calibration never sees negative get unsigned integers."""
    has_offset: bool = False
    """Inputs get an offset, which calibration sets; then their integers keep the sign."""

    def __post_init__(self) -> None:
        self.quantizer("inputs", bits=8)  # built for nothing: it refuses what is impossible

    def quantizer(self, name: str, *, bits: int) -> Quantizer:
        """Return a new quantizer, off and without a range.

        Args:
            name: Its full path.
            bits: Width of the integers.
        """
        return Quantizer(
            name=name,
            bits=bits,
            scale_rule=self.scale_rule,
            observer=self.observer,
            percentile=self.percentile,
            narrow_range=self.narrow_range,
            ema_momentum=self.ema_momentum,
            may_be_unsigned=self.may_be_unsigned,
            has_offset=self.has_offset,
        )
