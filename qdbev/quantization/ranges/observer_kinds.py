"""All kinds of observers by their names; a new one has its row where its class is."""

from __future__ import annotations

from qdbev.quantization.ranges.histogram_observers import HISTOGRAM_OBSERVERS
from qdbev.quantization.ranges.observers import RUNNING_OBSERVERS, Observer

OBSERVERS = (*RUNNING_OBSERVERS, *HISTOGRAM_OBSERVERS)


def make_observer(
    kind: str,
    *,
    bits: int,
    axis: int | None = None,
    scale_rule: str = "qdbev",
    narrow_range: bool = False,
    percentile: float = 99.99,
    momentum: float = 0.95,
) -> Observer:
    """Build the observer called ``kind``.

    Args:
        kind: That of a row of ``OBSERVERS``.
        bits: Width of the quantizer it is for (mse and entropy depend on it).
        axis: Channel axis or None.
        scale_rule: ``qdbev`` or ``hawq``.
        narrow_range: Of the quantizer.
        percentile: For ``percentile``.
        momentum: For ``moving_average``.

    Raises:
        ValueError: an unknown kind, or one per channel that works per tensor only.
    """
    rows = {row.kind: row for row in OBSERVERS}
    if kind not in rows:
        raise ValueError(f"observer must be one of {', '.join(rows)}, got {kind!r}")
    row = rows[kind]
    if axis is not None and not row.per_channel:
        raise ValueError(f"the {kind} observer needs many values and works per tensor only; use mse per channel")
    options = {
        "bits": bits,
        "axis": axis,
        "scale_rule": scale_rule,
        "narrow_range": narrow_range,
        "percentile": percentile,
        "momentum": momentum,
    }
    return row.make(**{name: options[name] for name in row.options})
