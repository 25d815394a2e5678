"""How numbers of a report become text: one rule per quantity, the same in every table."""

from __future__ import annotations

import math

MISSING = "–"
MINUS = "−"
MEGABYTE = 2**20
BOPS_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def is_missing(value: object) -> bool:
    """Whether there is no number to show: None or NaN (nuScenes has no heading error for cones, for example)."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def score_text(value: float | None) -> str:
    """A metric between 0 and 1, or an error in its own unit, with three decimals.

    >>> score_text(0.35449), score_text(None)
    ('0.354', '–')
    """
    return MISSING if value is None or is_missing(value) else f"{value:.3f}".replace("-", MINUS)


def change_text(value: float | None) -> str:
    """A signed difference with three decimals; what rounds to nothing has no sign.

    >>> change_text(-0.0121), change_text(0.0121), change_text(-0.0001)
    ('−0.012', '+0.012', '0.000')
    """
    if value is None or is_missing(value):
        return MISSING
    text = f"{value:+.3f}".replace("-", MINUS)
    return text[1:] if text[1:] == "0.000" else text


def interval_text(difference: float | None, *, low: float | None, high: float | None) -> str:
    """A paired difference with its interval; "n.s." (not significant) where the interval holds zero.

    Args:
        difference: What was measured, for example NDS of the quantized model minus NDS of float.
        low: Lower end of the interval; None where none was computed.
        high: Upper end.

    >>> interval_text(-0.012, low=-0.018, high=-0.006)
    '−0.012 [−0.018, −0.006]'
    >>> interval_text(-0.002, low=-0.006, high=0.003)
    '−0.002 n.s. [−0.006, +0.003]'
    >>> interval_text(-0.002, low=None, high=None)
    '−0.002'
    """
    if low is None or high is None or is_missing(difference):
        return change_text(difference)
    word = " n.s." if low <= 0.0 <= high else ""
    return f"{change_text(difference)}{word} [{change_text(low)}, {change_text(high)}]"


def percent_text(fraction: float | None) -> str:
    """A fraction as a percentage with one decimal.

    >>> percent_text(0.9831)
    '98.3 %'
    """
    return MISSING if fraction is None or is_missing(fraction) else f"{100 * fraction:.1f} %".replace("-", MINUS)


def times_text(ratio: float | None) -> str:
    """How many times smaller: one decimal.

    >>> times_text(42.6667)
    '42.7×'
    """
    return MISSING if ratio is None or is_missing(ratio) else f"{ratio:.1f}×"


def count_text(value: float | None) -> str:
    """A whole number, its thousands set apart by commas.

    >>> count_text(33245627)
    '33,245,627'
    """
    return MISSING if value is None or is_missing(value) else f"{value:,.0f}"


def megabytes_text(size_bytes: float | None) -> str:
    """A size in MB of 2**20 bytes (the unit of the paper's table 4) with two decimals.

    >>> megabytes_text(33245627 * 4)
    '126.82'
    """
    return MISSING if size_bytes is None or is_missing(size_bytes) else f"{size_bytes / MEGABYTE:.2f}"


def disk_text(size_bytes: float | None) -> str:
    """What lies on a disk, in the unit that leaves one to three digits before the point; powers of 1000.

    >>> disk_text(5_711_234), disk_text(416_042), disk_text(12), disk_text(1_234_567_890), disk_text(None)
    ('5.7 MB', '416 kB', '12 B', '1.2 GB', '–')
    """
    if size_bytes is None or is_missing(size_bytes):
        return MISSING
    if size_bytes < 1e6:
        return f"{size_bytes / 1e3:.0f} kB" if size_bytes >= 1e3 else f"{size_bytes:.0f} B"
    divisor, letter = next((unit for unit in ((1e12, "T"), (1e9, "G")) if size_bytes >= unit[0]), (1e6, "M"))
    return f"{size_bytes / divisor:.1f} {letter}B"


def milliseconds_text(seconds: float | None) -> str:
    """A duration in milliseconds with one decimal.

    >>> milliseconds_text(0.01234)
    '12.3'
    """
    return MISSING if seconds is None or is_missing(seconds) else f"{1000 * seconds:,.1f}"


def bops_unit(largest: float) -> tuple[float, str]:
    """The unit in which the largest number of a BOPS table lies between 1 and 1000: (divisor, letter).

    >>> bops_unit(62.33e12), bops_unit(679e9)
    ((1000000000000.0, 'T'), (1000000000.0, 'G'))
    """
    return next((unit for unit in BOPS_UNITS if largest >= unit[0]), (1.0, ""))


def scaled_text(value: float | None, *, divisor: float) -> str:
    """A number in a given unit: two decimals, and three significant digits below 0.1.

    >>> scaled_text(1.4609e12, divisor=1e12), scaled_text(2.5e8, divisor=1e12)
    ('1.46', '0.00025')
    """
    if value is None or is_missing(value):
        return MISSING
    scaled = value / divisor
    return f"{scaled:.2f}" if scaled == 0 or abs(scaled) >= 0.1 else f"{scaled:.3g}"


def value_text(value: object) -> str:
    """A value of any kind: words and whole numbers as they are, others with four decimals, or four digits from 10 on.

    >>> value_text(0.41234), value_text(123.456), value_text(12), value_text("neck"), value_text(None)
    ('0.4123', '123.5', '12', 'neck', '–')
    """
    if is_missing(value):
        return MISSING
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) >= 10 else f"{value:.4f}"
    return str(value)
