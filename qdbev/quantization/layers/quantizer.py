"""A quantizer: the bits, the scale, and the switch of one tensor of the network (QD-BEV, Eq. 1).

Its state is a ``GridState``.

A range comes from calibration (``Quantizer.calibrate``, or observing) and then stays, or the quantizer *follows*
the tensor it is given: the range is that tensor's own ``max|w|`` each time. Min-max weights follow while they train. A
range can also be *learned*: from ``Quantizer.learn`` to ``Quantizer.settle`` it is a parameter, in one of the
forms of ``qdbev.quantization.ranges.trained_ranges``. While it is ``held``, a range that moves or is learned stays.

A quantizer that ``may_be_unsigned`` and saw nothing negative in calibration, such as behind a ReLU, spends all its
integers on ``0 ... 2^k - 1``: the upper half of a signed grid of one bit more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from qdbev.quantization.grid.clipped_steps import Clipping
from qdbev.quantization.grid.fake_quantize import Rounding, limits_of
from qdbev.quantization.grid.forms import FakeQuantization
from qdbev.quantization.grid.integers import dequantize, quantize_int, steps_per_range
from qdbev.quantization.layers.grid_state import GridState
from qdbev.quantization.ranges.bounds_observers import BoundsObserver, make_bounds_observer
from qdbev.quantization.ranges.observer_kinds import make_observer
from qdbev.quantization.ranges.observers import Observer, check_momentum
from qdbev.quantization.ranges.trained_ranges import RangeForm, TrainedRange, trained_range

QuantizerState = Literal["off", "observing", "on"]


class Quantizer(GridState):
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
        super().__init__(
            name=name,
            bits=bits,
            axis=axis,
            channels=channels,
            scale_rule=scale_rule,
            narrow_range=narrow_range,
            follow=follow,
            has_offset=has_offset,
        )
        self._require_fitting(observer)
        if has_offset and (axis is not None or follow or ema_momentum is not None):
            raise ValueError(f"{name}: an offset needs one range for the whole tensor that neither follows nor moves")
        self.observer, self.percentile = observer, percentile
        self.ema_momentum = None if ema_momentum is None else check_momentum(ema_momentum)
        self.may_be_unsigned, self._negative = may_be_unsigned, False
        self._state: QuantizerState = "off"
        self._observing: Observer | None = None
        self.held = False
        self._make_observer()  # an impossible choice is refused here, not in the middle of calibration
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
            self.move(x, momentum=self.ema_momentum)
        scale, offset = self.present_grid()
        if offset is None:
            return Rounding(scale, self.axis, low, high)
        return Clipping.stepped(scale, offset, axis=self.axis, low=low, high=high)

    def integers(self, x: Tensor) -> Tensor:
        """Return the integers of ``x`` (int8 up to 8 bits); ``dequantize(integers(x)) == forward(x)`` when on."""
        self._follow_or_require(x)
        if self._unsigned:
            x = x.clamp_min(0)
        scale, offset = self.present_grid()
        return quantize_int(
            x, scale=scale, bits=self.grid_bits, axis=self.axis, narrow_range=self.narrow_range, offset=offset
        )

    def dequantize(self, integers: Tensor) -> Tensor:
        """Return the values that integers of this quantizer stand for, float32."""
        scale, offset = self.present_grid()
        return dequantize(integers, scale=scale, axis=self.axis, offset=offset)

    def choose_by(self, observer: str) -> None:
        """Let another observer choose the range from now on.

        Raises:
            ValueError: an unknown observer, one that does not fit the granularity, or a range that follows its tensor.
        """
        self._require_fitting(observer)
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

    def observed(self) -> dict[str, Tensor]:
        """What was seen since it began to observe; nothing where it does not."""
        if self._observing is None:
            return {}
        return self._observing.seen() | {"negative": torch.tensor(self._negative)}

    def observe_on(self, observed: Mapping[str, Tensor]) -> None:
        """Go on from what ``observed`` gave of a quantizer of the same settings; it observes already."""
        assert self._observing is not None
        self._observing.take_up(observed)
        self._negative = bool(observed["negative"])

    def learn(self, form: RangeForm = "log") -> None:
        """Make the range a parameter that starts at the present one; it no longer follows.

        Args:
            form: ``log`` or ``linear`` (LSQ, and LSQ+ where there is an offset), or ``clip`` (PACT, per tensor).

        Raises:
            ValueError: there is no range to start at, or the form does not fit the quantizer.
        """
        if self._follows or not self._has_range:
            raise ValueError(f"{self.name}: a range is learned from one that is set; calibrate or freeze it first")
        steps = steps_per_range(self.grid_bits, rule=self.scale_rule)
        try:
            self.trained = trained_range(
                form, scale=self.scale, offset=self.offset, axis=self.axis, steps_per_range=steps
            )
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error

    @torch.no_grad()
    def settle(self) -> None:
        """Fix the range at what was learned, which stops being a parameter; any other range stays as it is."""
        self.held = False
        if self.trained is not None:
            scale, offset = self.present_grid()
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

    def present_grid(self) -> tuple[Tensor, Tensor | None]:
        """The present step and offset, learned or not."""
        if self.trained is not None:
            return self.trained.scale, self.trained.offset
        return self.scale, self.offset

    def _require_fitting(self, observer: str) -> None:
        if self._follows and observer != "minmax":
            raise ValueError(f"{self.name}: only a min-max range can follow its tensor, got observer {observer!r}")

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

    def _take_range(self, observer: Observer) -> None:
        if isinstance(observer, BoundsObserver):
            self.set_bounds(*observer.bounds())
        else:
            self.set_range(observer.range())

    def _feed(self, observer: Observer, x: Tensor) -> None:
        try:
            observer.update(x)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error
