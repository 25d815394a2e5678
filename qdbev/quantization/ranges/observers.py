"""Observers: from values seen in calibration to the range ``r_max`` of a symmetric quantizer.

An observer is fed with ``update(x)`` and asked with ``range()``. It works on a whole tensor (``axis=None``) or per
channel. What each depends on:

============== ============================== ====================================== =====================
kind           range                          order of batches                       per channel
============== ============================== ====================================== =====================
minmax         largest ``|x|``                none                                   yes
moving_average mean of batch maxima, decayed  matters: late batches weigh more       yes
percentile     percentile of ``|x|``          none (also not how they are cut)       yes
mse            least squared error            none (also not how they are cut)       yes
entropy        least KL divergence            none (also not how they are cut)       no: needs many values
============== ============================== ====================================== =====================

All of them are deterministic and of bounded memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import ClassVar, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor


def largest_magnitude(x: Tensor, *, axis: int | None, unsigned: bool = False) -> Tensor:
    """Return ``max|x|`` in float32: shape () without an axis, (C,) with one.

    Args:
        x: Values, any shape.
        axis: The channel axis.
        unsigned: Take negative values for 0.

    >>> largest_magnitude(torch.tensor([[1.0, -3.0], [0.5, 0.25]]), axis=0).tolist()
    [3.0, 0.5]
    >>> largest_magnitude(torch.tensor([[1.0, -3.0], [-0.5, -0.25]]), axis=0, unsigned=True).tolist()
    [1.0, 0.0]
    """
    values = x.detach() if axis is None else x.detach().movedim(axis, 0).flatten(1)
    reduced = () if axis is None else (1,)
    if unsigned:  # without a copy whose negative values are cut off
        return values.amax(reduced).clamp_min(0).to(torch.float32)
    low, high = values.aminmax() if axis is None else (values.amin(reduced), values.amax(reduced))
    return torch.maximum(high, -low).to(torch.float32)


class Observer:
    """Common part: refuses bad values, skips empty ones, and has no range before it has seen any.

    Args:
        axis: Channel axis, or None for one range of the whole tensor.
    """

    remembers: ClassVar[tuple[str, ...]] = ()
    """Attributes that hold what was seen: tensors, None before; ``a.b`` is an attribute of an attribute."""

    def __init__(self, *, axis: int | None = None) -> None:
        self.axis = axis
        self.updates = 0

    def update(self, x: Tensor) -> None:
        """Take in one batch of values; an empty tensor changes nothing.

        Raises:
            ValueError: infinite or NaN values.
        """
        if x.numel() == 0:
            return
        values = x.detach()
        if not bool(torch.isfinite(values).all()):
            raise ValueError("calibration values hold NaN or infinity; check the inputs and the float weights")
        self._take(values)
        self.updates += 1

    def range(self) -> Tensor:
        """Return ``r_max``, float32, shape () or (C,).

        Raises:
            ValueError: nothing was seen.
        """
        if not self.updates:
            raise ValueError("an observer that saw no values has no range; run calibration through this layer")
        return self._range()

    def set_bits(self, bits: int) -> None:
        """Choose for a grid of so many bits, where the range depends on that; it is known last."""

    def seen(self) -> dict[str, Tensor]:
        """All that was seen so far, by names that ``take_up`` understands."""
        values = {name: attrgetter(name)(self) for name in self.remembers if self.updates}
        return values | {"updates": torch.tensor(self.updates)}

    def take_up(self, seen: Mapping[str, Tensor]) -> None:
        """Go on from what ``seen`` gave of an observer made alike."""
        self.updates = int(seen["updates"])
        for path in self.remembers if self.updates else ():
            holder, _, name = path.rpartition(".")
            setattr(attrgetter(holder)(self) if holder else self, name, seen[path])

    def _take(self, x: Tensor) -> None:
        raise NotImplementedError

    def _range(self) -> Tensor:
        raise NotImplementedError


class MinMaxObserver(Observer):
    """The largest magnitude ever seen."""

    remembers = ("_largest",)
    _largest: Tensor | None = None

    def _take(self, x: Tensor) -> None:
        largest = largest_magnitude(x, axis=self.axis)
        self._largest = largest if self._largest is None else torch.maximum(self._largest, largest)

    def _range(self) -> Tensor:
        assert self._largest is not None
        return self._largest


class MovingAverageObserver(Observer):
    """``r <- m r + (1 - m) max|x|`` per update, starting at the first batch's maximum (HAWQ-v3 uses m = 0.95).

    Args:
        axis: Channel axis or None.
        momentum: ``m``, in [0, 1).
    """

    remembers = ("_average",)

    def __init__(self, *, axis: int | None = None, momentum: float = 0.95) -> None:
        super().__init__(axis=axis)
        self.momentum = check_momentum(momentum)
        self._average: Tensor | None = None

    def _take(self, x: Tensor) -> None:
        largest = largest_magnitude(x, axis=self.axis)
        self._average = largest if self._average is None else self._average.lerp(largest, 1.0 - self.momentum)

    def _range(self) -> Tensor:
        assert self._average is not None
        return self._average


AnyObserver = TypeVar("AnyObserver", bound=Observer)


class ObserverRow(NamedTuple, Generic[AnyObserver]):
    """How one kind of observer is made.

    Attributes:
        kind: its name in profiles.
        make: its class.
        options: those options of a quantizer that the class takes; without ``axis`` it works per tensor only.
    """

    kind: str
    make: Callable[..., AnyObserver]
    options: tuple[str, ...]

    @property
    def per_channel(self) -> bool:
        """Whether it can choose a range per channel."""
        return "axis" in self.options


RUNNING_OBSERVERS: tuple[ObserverRow[Observer], ...] = (
    ObserverRow("minmax", MinMaxObserver, ("axis",)),
    ObserverRow("moving_average", MovingAverageObserver, ("axis", "momentum")),
)


def check_momentum(momentum: float) -> float:
    """Return ``momentum`` if it lies in [0, 1), else raise ValueError."""
    if not 0.0 <= momentum < 1.0:
        raise ValueError(f"momentum must be at least 0 and below 1, got {momentum}")
    return momentum
