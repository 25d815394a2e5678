"""A quantizer: the bits, the scale, and the switch of one tensor of the network (QD-BEV, Eq. 1).

Its state is two or three buffers, saved and loaded strictly with the model:

* ``scale``: float32, () per tensor or (C,) per channel
* ``flags``: uint8, ``[has_range, follows, bits, scale rule, narrow_range]``; a state made for other bits is refused.
  ``has_range`` is 2 for a range from zero on. A sixth, 1, says that there is an offset
* ``offset``, only where there is one: float32, (), the value that integer 0 stands for

A range comes from calibration (``Quantizer.calibrate``, or observing) and then stays, or the quantizer *follows*
the tensor it is given: the range is that tensor's own ``max|w|`` each time. Min-max weights follow while they train. A
range can also be *learned*: from ``Quantizer.learn`` to ``Quantizer.settle`` it is a parameter, in one of the
forms of ``qdbev.quantization.ranges.trained_ranges``. While it is ``held``, a range that moves or is learned stays.

A range that follows or moves is a new tensor each time: a backward pass that is still to come keeps the old one.

A quantizer that ``may_be_unsigned`` and saw nothing negative in calibration, such as behind a ReLU, spends all its
integers on ``0 ... 2^k - 1``: the upper half of a signed grid of one bit more.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from qdbev.quantization.grid.clipped_steps import Clipping
from qdbev.quantization.grid.fake_quantize import Rounding, limits_of
from qdbev.quantization.grid.forms import FakeQuantization
from qdbev.quantization.grid.integers import (
    ScaleRule,
    check_bits,
    check_scale_rule,
    dequantize,
    quantize_int,
    range_of_scale,
    scale_of_range,
    steps_per_range,
)
from qdbev.quantization.ranges.bounds_observers import BoundsObserver, grid_of_bounds, make_bounds_observer
from qdbev.quantization.ranges.observer_kinds import make_observer
from qdbev.quantization.ranges.observers import Observer, check_momentum, largest_magnitude
from qdbev.quantization.ranges.trained_ranges import ClippingLevel, LogScale, RangeForm, StepSize, TrainedRange

QuantizerState = Literal["off", "observing", "on"]

HAS_RANGE, FOLLOWS, BITS = 0, 1, 2  # places in `flags`; from BITS on it is the format
UNSIGNED = 2  # value of `flags[HAS_RANGE]` of a range from zero on
_RULES: tuple[str, ...] = get_args(ScaleRule)


class Quantizer(nn.Module):
    """Fake quantization of one tensor, with the state that makes it repeatable.

    Args:
        name: Full path, for error messages.
        bits: Width of the integers, 2..16.
        axis: Channel axis of a per-channel scale, or None for one scale.
        channels: Number of channels when ``axis`` is given.
        scale_rule: ``qdbev`` (Eq. 1) or ``hawq``.
        observer: What calibration uses, see ``qdbev.quantization.ranges.observers``.
        percentile: For the percentile observer.
        narrow_range: Leave out the most negative integer.
        follow: Take the range from each tensor it is given (min-max only).
        ema_momentum: When set, a training forward moves the range: ``r <- m r + (1 - m) max|x|``.
        may_be_unsigned: Let calibration without negative values leave the sign out.
        has_offset: Let calibration choose an offset, so that the grid need not be symmetric about zero; the sign stays.

    Attributes:
        held: while True, a range that moves or is learned stays as it is.

    >>> quantizer = Quantizer(name="toy", bits=4)
    >>> quantizer.set_range(torch.tensor(15.0))
    >>> quantizer.state = "on"
    >>> quantizer(torch.tensor([15.0, -15.0, 4.9])).tolist()
    [14.0, -16.0, 4.0]
    """

    scale: Tensor
    flags: Tensor
    offset: Tensor | None
    trained: TrainedRange | None

    def __init__(
        self,
        *,
        name: str,
        bits: int,
        axis: int | None = None,
        channels: int | None = None,
        scale_rule: str = "qdbev",
        observer: str = "minmax",
        percentile: float = 99.99,
        narrow_range: bool = False,
        follow: bool = False,
        ema_momentum: float | None = None,
        may_be_unsigned: bool = False,
        has_offset: bool = False,
    ) -> None:
        super().__init__()
        if (axis is None) != (channels is None):
            raise ValueError(f"{name}: give axis and channels together, got axis={axis} and channels={channels}")
        if follow and observer != "minmax":
            raise ValueError(f"{name}: only a min-max range can follow its tensor, got observer {observer!r}")
        if has_offset and (axis is not None or follow or ema_momentum is not None):
            raise ValueError(f"{name}: an offset needs one range for the whole tensor that neither follows nor moves")
        self.name, self.bits, self.axis = name, check_bits(bits), axis
        self.scale_rule, self.narrow_range = check_scale_rule(scale_rule), narrow_range
        self.observer, self.percentile = observer, percentile
        self.ema_momentum = None if ema_momentum is None else check_momentum(ema_momentum)
        self.may_be_unsigned, self._negative = may_be_unsigned, False
        self._state: QuantizerState = "off"
        self._observing: Observer | None = None
        self.held = False
        self.register_buffer("offset", torch.zeros(()) if has_offset else None)
        self._make_observer()  # an impossible choice is refused here, not in the middle of calibration
        self.register_buffer("scale", torch.ones(() if channels is None else (channels,)))
        code = [0, int(follow), bits, _RULES.index(self.scale_rule), int(narrow_range), *([1] if has_offset else [])]
        self.register_buffer("flags", torch.tensor(code, dtype=torch.uint8))
        self._has_range, self._follows, self._unsigned = False, follow, False
        self.register_module("trained", None)

    @property
    def state(self) -> QuantizerState:
        """``off`` (passes through), ``observing`` (passes through and looks) or ``on`` (quantizes)."""
        return self._state

    @state.setter
    def state(self, value: QuantizerState) -> None:
        if value not in get_args(QuantizerState):
            raise ValueError(f"{self.name}: state must be one of {get_args(QuantizerState)}, got {value!r}")
        self._observing = self._make_observer() if value == "observing" else None
        self._negative = False
        self._state = value

    @property
    def has_range(self) -> bool:
        """Whether it may run: a range was set, or it follows its tensor."""
        return self._has_range or self._follows

    @property
    def unsigned(self) -> bool:
        """Whether the range begins at zero."""
        return self._unsigned

    @property
    def grid_bits(self) -> int:
        """Bits of the signed grid that its integers lie on: one more than ``bits`` where they are unsigned."""
        return self.bits + self._unsigned

    @property
    def follows(self) -> bool:
        """Whether the range is that of each tensor it is given."""
        return self._follows

    @property
    def range(self) -> Tensor:
        """``r_max``, shape of ``scale``; ValueError where there is none yet."""
        self._require_range()
        return range_of_scale(self.scale, bits=self.grid_bits, rule=self.scale_rule)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` as the state says: itself, or on the grid.

        Raises:
            ValueError: on without a range, or non-finite values while observing.
        """
        if self._state == "off":
            return x
        if self._state == "observing":
            self._observe(x)
            return x
        return self.rounding(x).apply(x)

    @property
    def only_rounds(self) -> bool:
        """Whether a forward is ``rounding`` and no more: on, and without hooks."""
        return (
            self._state == "on"
            and type(self) is Quantizer
            and not (self._forward_hooks or self._forward_pre_hooks or self._backward_hooks or self._backward_pre_hooks)
        )

    def rounding(self, x: Tensor) -> FakeQuantization:
        """How ``x`` is put onto the grid, having let the range follow it or move.

        Raises:
            ValueError: there is no range.
        """
        low, high = limits_of(self.grid_bits, narrow_range=self.narrow_range, unsigned=self._unsigned)
        trained = None if self.held else self._modules["trained"]  # by name: this is asked at every layer
        if trained is not None:
            assert isinstance(trained, TrainedRange)
            return trained.rounding(axis=self.axis, low=low, high=high)
        self._follow_or_require(x)
        if self.ema_momentum is not None and self.training and not self._follows and not self.held:
            self._move(x)
        scale, offset = self._grid()
        if offset is None:
            return Rounding(scale, self.axis, low, high)
        return Clipping.stepped(scale, offset, axis=self.axis, low=low, high=high)

    def integers(self, x: Tensor) -> Tensor:
        """Return the integers of ``x`` (int8 up to 8 bits); ``dequantize(integers(x)) == forward(x)`` when on."""
        self._follow_or_require(x)
        if self._unsigned:
            x = x.clamp_min(0)
        scale, offset = self._grid()
        return quantize_int(
            x, scale=scale, bits=self.grid_bits, axis=self.axis, narrow_range=self.narrow_range, offset=offset
        )

    def dequantize(self, integers: Tensor) -> Tensor:
        """Return the values that integers of this quantizer stand for, float32."""
        scale, offset = self._grid()
        return dequantize(integers, scale=scale, axis=self.axis, offset=offset)

    @torch.no_grad()
    def set_range(self, r_max: Tensor) -> None:
        """Fix the range, symmetric about zero.

        Args:
            r_max: Largest magnitudes, shape of ``scale``, finite and not negative.
        """
        if r_max.shape != self.scale.shape:
            raise ValueError(
                f"{self.name}: a range of shape {tuple(self.scale.shape)} is needed, got {tuple(r_max.shape)}"
            )
        if not bool((torch.isfinite(r_max) & (r_max >= 0)).all()):
            raise ValueError(f"{self.name}: a range must be finite and not negative, got {r_max}")
        self.scale.copy_(scale_of_range(r_max, bits=self.grid_bits, rule=self.scale_rule))
        if self.offset is not None:
            self.offset.zero_()
        self._mark(HAS_RANGE, 1 + self._unsigned)

    def choose_by(self, observer: str) -> None:
        """Let another observer choose the range from now on.

        Raises:
            ValueError: an unknown observer, one that does not fit the granularity, or a range that follows its tensor.
        """
        if self._follows and observer != "minmax":
            raise ValueError(f"{self.name}: only a min-max range can follow its tensor, got observer {observer!r}")
        self.observer = observer
        self._make_observer()

    def calibrate(self, x: Tensor) -> None:
        """Set the range from this one tensor, with the quantizer's own observer (for weights)."""
        observer = self._make_observer()
        self._feed(observer, x)
        self._take_range(observer)

    def finish_observing(self) -> bool:
        """Turn what was observed into the range and switch off; False if nothing passed through."""
        observer, negative, self.state = self._observing, self._negative, "off"
        if observer is None or not observer.updates:
            return False
        self._unsigned = self.may_be_unsigned and not negative and self.offset is None
        observer.set_bits(self.grid_bits)
        self._take_range(observer)
        return True

    @torch.no_grad()
    def refresh(self, x: Tensor) -> None:
        """Take the range of ``x`` if following; otherwise leave it."""
        if self._follows:
            largest = largest_magnitude(x, axis=self.axis)
            self.scale = scale_of_range(largest, bits=self.bits, rule=self.scale_rule)
            if not self._has_range:
                self._mark(HAS_RANGE, 1)

    def freeze(self, x: Tensor) -> None:
        """Stop following, at the range of ``x``; a fixed range stays as it is."""
        self.refresh(x)
        self._mark(FOLLOWS, 0)

    def learn(self, form: RangeForm = "log") -> None:
        """Make the range a parameter that starts at the present one; it no longer follows.

        Args:
            form: ``log`` or ``linear`` (LSQ, and LSQ+ where there is an offset), or ``clip`` (PACT, per tensor).

        Raises:
            ValueError: there is no range to start at, or the form does not fit the quantizer.
        """
        if self._follows or not self._has_range:
            raise ValueError(f"{self.name}: a range is learned from one that is set; calibrate or freeze it first")
        if form == "clip":
            if self.axis is not None or self.offset is not None:
                raise ValueError(f"{self.name}: a clipping level is one per tensor, without an offset")
            steps = steps_per_range(self.grid_bits, rule=self.scale_rule)
            self.trained = ClippingLevel(self.range, steps_per_range=steps)
        else:
            self.trained = (LogScale if form == "log" else StepSize)(self.scale, offset=self.offset)

    @torch.no_grad()
    def settle(self) -> None:
        """Fix the range at what was learned, which stops being a parameter; any other range stays as it is."""
        self.held = False
        if self.trained is not None:
            scale, offset = self._grid()
            self.scale.copy_(scale)
            if self.offset is not None and offset is not None:
                self.offset.copy_(offset)
            self.trained = None

    def extra_repr(self) -> str:
        """Bits, granularity, rule and whether there is a range."""
        sign = "unsigned " if self._unsigned else ""
        kind = "per tensor" if self.axis is None else f"per channel of axis {self.axis}"
        kind += "" if self.offset is None else " with an offset"
        ranged = "follows" if self._follows else "range" if self._has_range else "no range"
        return f"{self.bits} {sign}bits, {kind}, {self.scale_rule}, {ranged}, {self._state}"

    def _grid(self) -> tuple[Tensor, Tensor | None]:
        """The present step and offset, learned or not."""
        if self.trained is not None:
            return self.trained.scale, self.trained.offset
        return self.scale, self.offset

    def _make_observer(self) -> Observer:
        if self.offset is not None:
            return make_bounds_observer(self.observer, bits=self.bits, narrow_range=self.narrow_range)
        return make_observer(
            self.observer,
            bits=self.bits,
            axis=self.axis,
            scale_rule=self.scale_rule,
            narrow_range=self.narrow_range,
            percentile=self.percentile,
        )

    def _observe(self, x: Tensor) -> None:
        assert self._observing is not None
        self._feed(self._observing, x)
        self._negative = self._negative or bool((x < 0).any())

    @torch.no_grad()
    def _take_range(self, observer: Observer) -> None:
        if not isinstance(observer, BoundsObserver):
            self.set_range(observer.range())
            return
        assert self.offset is not None
        scale, offset = grid_of_bounds(*observer.bounds(), bits=self.bits, narrow_range=self.narrow_range)
        self.scale.copy_(scale)
        self.offset.copy_(offset)
        self._mark(HAS_RANGE, 1)

    def _feed(self, observer: Observer, x: Tensor) -> None:
        try:
            observer.update(x)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error

    def _follow_or_require(self, x: Tensor) -> None:
        if self._follows:
            self.refresh(x)
        self._require_range()

    def _require_range(self) -> None:
        if not self.has_range:
            raise ValueError(
                f"quantizer {self.name} has no range; calibrate the model or load a calibrated state first"
            )

    @torch.no_grad()
    def _move(self, x: Tensor) -> None:
        """Move the range towards this batch's; the scale is linear in the range. A batch of zeros moves nothing."""
        assert self.ema_momentum is not None
        if x.numel():
            largest = largest_magnitude(x, axis=self.axis, unsigned=self._unsigned)
            batch = scale_of_range(largest, bits=self.grid_bits, rule=self.scale_rule)
            self.scale = self.scale.lerp(torch.where(largest > 0, batch, self.scale), 1.0 - self.ema_momentum)

    def _mark(self, place: int, value: int) -> None:
        """Set a flag in the buffer and in its mirror: reading the buffer in forward would wait for the device."""
        self.flags[place] = value
        if place == HAS_RANGE:
            self._has_range = bool(value)
        else:
            self._follows = bool(value)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Load, refusing a state of another format, and bring the mirrors of the flags up to date."""
        saved, errors = state_dict.get(prefix + "flags"), rest[-1]
        if saved is not None and saved.ndim == 1:
            ours = self.flags[BITS:].tolist()
            if saved[BITS:].tolist() != ours:
                errors.append(
                    f"quantizer {self.name} is {ours} (bits, scale rule, narrow range, 1 for an offset) but the state "
                    f"was saved with {saved[BITS:].tolist()}; quantize the model as the state was made"
                )
                return
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self._has_range, self._follows = bool(self.flags[HAS_RANGE]), bool(self.flags[FOLLOWS])
        self._unsigned = int(self.flags[HAS_RANGE]) == UNSIGNED
