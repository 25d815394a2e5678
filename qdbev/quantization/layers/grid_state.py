"""The state of a quantizer: the scale, the flags that say what it is, and an offset where there is one.

It is two or three buffers, saved and loaded strictly with the model:

* ``scale``: float32, () per tensor or (C,) per channel
* ``flags``: uint8, ``[has_range, follows, bits, scale rule, narrow_range]``; a state made for other bits is refused.
  ``has_range`` is 2 for a range from zero on. A sixth, 1, says that there is an offset
* ``offset``, only where there is one: float32, (), the value that integer 0 stands for

A range that follows or moves is a new tensor each time: a backward pass that is still to come keeps the old one.
"""

from __future__ import annotations

from typing import Any, get_args

import torch
from torch import Tensor, nn

from qdbev.quantization.grid.integers import ScaleRule, check_bits, check_scale_rule, range_of_scale, scale_of_range
from qdbev.quantization.ranges.bounds_observers import grid_of_bounds
from qdbev.quantization.ranges.observers import largest_magnitude

HAS_RANGE, FOLLOWS, BITS = 0, 1, 2  # places in `flags`; from BITS on it is the format
UNSIGNED = 2  # value of `flags[HAS_RANGE]` of a range from zero on
_RULES: tuple[str, ...] = get_args(ScaleRule)


class GridState(nn.Module):
    """The grid of one tensor.

    Args:
        name: Full path, for error messages.
        bits: Width of the integers, 2..16.
        axis: Channel axis of a per-channel scale, or None for one scale.
        channels: Number of channels when ``axis`` is given.
        scale_rule: ``qdbev`` (Eq. 1) or ``hawq``.
        narrow_range: Leave out the most negative integer.
        follow: Take the range from each tensor it is given.
        has_offset: There is an offset, at first 0.
    """

    scale: Tensor
    flags: Tensor
    offset: Tensor | None

    def __init__(
        self,
        *,
        name: str,
        bits: int,
        axis: int | None,
        channels: int | None,
        scale_rule: str,
        narrow_range: bool,
        follow: bool,
        has_offset: bool,
    ) -> None:
        super().__init__()
        if (axis is None) != (channels is None):
            raise ValueError(f"{name}: give axis and channels together, got axis={axis} and channels={channels}")
        self.name, self.bits, self.axis = name, check_bits(bits), axis
        self.scale_rule, self.narrow_range = check_scale_rule(scale_rule), narrow_range
        self.register_buffer("offset", torch.zeros(()) if has_offset else None)
        self.register_buffer("scale", torch.ones(() if channels is None else (channels,)))
        code = [0, int(follow), bits, _RULES.index(self.scale_rule), int(narrow_range), *([1] if has_offset else [])]
        self.register_buffer("flags", torch.tensor(code, dtype=torch.uint8))
        self._has_range, self._follows, self._unsigned = False, follow, False

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

    @torch.no_grad()
    def set_bounds(self, low: Tensor, high: Tensor) -> None:
        """Fix step and offset, so that the smallest integer stands for ``low`` and the largest for ``high``."""
        assert self.offset is not None
        scale, offset = grid_of_bounds(low, high, bits=self.bits, narrow_range=self.narrow_range)
        self.scale.copy_(scale)
        self.offset.copy_(offset)
        self._mark(HAS_RANGE, 1)

    @torch.no_grad()
    def put_onto(self, scale: Tensor, *, bits: int, unsigned: bool) -> None:
        """Take another grid, symmetric about zero or from zero on, such as one that a device has.

        Args:
            scale: Its step, shape of ``scale``.
            bits: Width of its integers, 2..16; none of them is left out.
            unsigned: Its integers begin at zero.
        """
        self.scale.copy_(scale)
        self.bits, self.narrow_range, self.offset = check_bits(bits), False, None
        self._unsigned = unsigned
        code = [1 + unsigned, int(self._follows), bits, _RULES.index(self.scale_rule), 0]
        self.flags = torch.tensor(code, dtype=torch.uint8, device=self.flags.device)
        self._mark(HAS_RANGE, 1 + unsigned)

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

    @torch.no_grad()
    def move(self, x: Tensor, *, momentum: float) -> None:
        """Move the range towards this batch's; the scale is linear in the range. A batch of zeros moves nothing."""
        if x.numel():
            largest = largest_magnitude(x, axis=self.axis, unsigned=self._unsigned)
            batch = scale_of_range(largest, bits=self.grid_bits, rule=self.scale_rule)
            self.scale = self.scale.lerp(torch.where(largest > 0, batch, self.scale), 1.0 - momentum)

    def _follow_or_require(self, x: Tensor) -> None:
        if self._follows:
            self.refresh(x)
        self._require_range()

    def _require_range(self) -> None:
        if not self.has_range:
            raise ValueError(
                f"quantizer {self.name} has no range; calibrate the model or load a calibrated state first"
            )

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
