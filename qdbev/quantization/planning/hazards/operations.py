"""Rules on single operations: inverse sigmoid, division by what comes near 0, masked fill, sums of unlike ranges."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from qdbev.quantization.planning.hazards.hazard import (
    DIVISOR_SPREAD,
    FILL,
    QUOTIENT_SPREAD,
    SHARED_SPREAD,
    Code,
    Hazard,
)
from qdbev.quantization.planning.hazards.origins import Mix
from qdbev.quantization.planning.hazards.spreads import Range, magnitudes, measurable, range_of

MIXES = {"add": "sum", "cat": "concatenation"}
FILLS = ("masked_fill", "where", "index_put")
_OF_TORCH = str(Path(torch.__file__).parent)
_OURS = str(Path(__file__).parent)


@dataclass
class Operation:
    """One operation of the code that quantizes badly, with what was measured of it in all its runs."""

    code: Code
    what: str
    """What it computes."""
    divisors: Range = field(default_factory=Range)
    """Magnitudes that a division divides by."""
    result: Range = field(default_factory=Range)

    def widen(self, other: Operation) -> None:
        """Take in another run of it."""
        self.divisors.widen(other.divisors)
        self.result.widen(other.result)

    def hazard(self, *, layer: str, line: str) -> Hazard:
        """Return it as a hazard of a module, with its line of code."""
        of = f" from {self.divisors.low:.3g} to {self.divisors.high:.3g}" if self.code == "reciprocal" else ""
        return Hazard(self.code, layer, f"{self.what}{of} ({line})", self.result.low, self.result.high)


def line_of_code() -> str:
    """Return file and line that run the present operation, the innermost outside of torch."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith((_OF_TORCH, _OURS)):
        frame = frame.f_back
    return "" if frame is None else f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


def fill_of(operation: str, arguments: Sequence[Any], result: Tensor) -> Operation | None:
    """Return the hazard of a fill by a huge number."""
    name = operation.rstrip("_")
    if name not in FILLS or not measurable(result):
        return None
    values = arguments[1:] if name == "where" else arguments[2:3]
    filled = [number for number in map(_single, values) if number is not None and not abs(number) < FILL]
    if not filled:
        return None
    return Operation("masked-fill", f"fills with {filled[0]:.3g} where masked", result=range_of(result))


def _single(value: Any) -> float | None:
    """A number, also in a tensor of one; None for others."""
    if isinstance(value, Tensor):
        return value.item() if value.numel() == 1 and not value.is_meta else None
    return float(value) if isinstance(value, int | float) else None


def division_of(operation: str, arguments: Sequence[Any], result: Tensor) -> Operation | None:
    """Return the hazard of a division by a tensor that comes near 0 in some places, where the quotient grows huge."""
    if operation == "reciprocal":
        dividend, divisor = 1.0, arguments[0]
    elif operation == "div":
        dividend, divisor = arguments[:2]
    else:
        return None
    if not measurable(divisor) or divisor.numel() < 2:
        return None
    spread = magnitudes(divisor)
    if not spread.high > DIVISOR_SPREAD * spread.low:
        return None
    size = range_of(dividend).largest if isinstance(dividend, Tensor) else abs(dividend)
    quotients = range_of(result)
    if not quotients.largest * spread.high >= QUOTIENT_SPREAD * size:
        return None
    return Operation("reciprocal", "divides by numbers", divisors=spread, result=quotients)


def mix_of(operation: str, arguments: Sequence[Any]) -> Mix | None:
    """Return how unlike the operands of a sum or concatenation are; None where their ranges are alike.

    Args:
        operation: Its name.
        arguments: As they are before it; biases and single numbers do not count.
    """
    name = operation.rstrip("_")
    operands = arguments[0] if name == "cat" else arguments[:2]
    if name not in MIXES or len(operands) < 2 or not all(map(_is_feature, operands)):
        return None
    largest = [range_of(operand).largest for operand in operands]
    used = [number for number in largest if 0 < number < math.inf]
    if len(used) < 2 or max(used) < SHARED_SPREAD * min(used):
        return None
    return Mix(MIXES[name], min(used), max(used))


def _is_feature(operand: Any) -> bool:
    """Whether it is a tensor that extends over two axes at least: a bias or a scale extends over one."""
    return measurable(operand) and sum(side > 1 for side in operand.shape) > 1
