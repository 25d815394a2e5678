"""Paired bootstrap over scenes: is the difference of two submissions larger than the choice of scenes makes it?

Scenes, not samples, are drawn with replacement (frames of a scene are alike), and the same draw serves both
submissions. A drawn multiset is scored exactly as the devkit would score it with repeated scenes. Percentile interval:
Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from nuscenes.eval.detection.constants import TP_METRICS

from qdbev.evaluation.boxes import Floats, Ints
from qdbev.evaluation.matching import Matches
from qdbev.evaluation.resampling.drawn_curves import drawn_class_scores

_ENTRIES_AT_ONCE = 1 << 22  # predictions of a class times draws: 32 MB an array


@dataclass(frozen=True)
class Interval:
    """A difference b - a: value on the scenes as they are, mean, 95 % interval and deviation over the resamples."""

    value: float
    mean: float
    low: float
    high: float
    deviation: float

    @property
    def differs(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def paired_bootstrap(a: Matches, *, b: Matches, resamples: int = 1000, seed: int = 0) -> dict[str, Interval]:
    """Intervals of ``NDS`` and ``mAP`` differences b - a over resampled scenes.

    Args:
        a: Matches of the submission compared with.
        b: Matches of the other submission on the same scenes.
        resamples: Number of draws.
        seed: Decides the draws.

    Raises:
        ValueError: the two were not matched on the same scenes, or there is nothing to draw.
    """
    if a.scenes != b.scenes:
        raise ValueError("paired submissions must be matched on the same scenes in the same order; match them again.")
    if not a.scenes or resamples < 2:
        raise ValueError(f"a bootstrap wants scenes and at least 2 resamples, got {len(a.scenes)} and {resamples}.")
    once = np.ones((1, len(a.scenes)), dtype=np.int64)
    (values,) = scores_of_draws(b, weights=once) - scores_of_draws(a, weights=once)
    differences = _drawn(b, resamples=resamples, seed=seed) - _drawn(a, resamples=resamples, seed=seed)
    return {name: _interval(differences[:, place], value=values[place]) for place, name in enumerate(("NDS", "mAP"))}


@lru_cache(maxsize=2)
def _drawn(matches: Matches, *, resamples: int, seed: int) -> Floats:
    """NDS and mAP (resamples, 2) of each draw; kept, as many submissions are compared with one."""
    count = len(matches.scenes)
    draws = np.random.default_rng([seed]).integers(count, size=(resamples, count))
    weights = np.stack([np.bincount(draw, minlength=count) for draw in draws])
    most = max(len(matched.confidence) for matched in matches.classes.values())
    parts = np.array_split(weights, min(resamples, 1 + resamples * most // _ENTRIES_AT_ONCE))
    return np.concatenate([scores_of_draws(matches, weights=part) for part in parts])


def scores_of_draws(matches: Matches, *, weights: Ints) -> Floats:
    """NDS and mAP (R, 2) of multisets of scenes.

    Args:
        matches: Of all scenes.
        weights: (R, S) how often each scene is there; all ones gives the devkit's scores.
    """
    errors = np.empty((len(weights), len(matches.classes), len(TP_METRICS)))
    precisions = np.empty((len(weights), len(matches.classes)))
    for row, (name, matched) in enumerate(matches.classes.items()):
        precisions[:, row], errors[:, row] = drawn_class_scores(matched, weights=weights)
        for column, metric in enumerate(TP_METRICS):
            if (name, metric) in matches.rules.no_value:
                errors[:, row, column] = np.nan
    mean_ap = precisions.mean(axis=1)
    goodness = np.maximum(0.0, 1.0 - np.nanmean(errors, axis=1)).sum(axis=1)
    weight = matches.rules.mean_ap_weight
    return np.stack([(weight * mean_ap + goodness) / (weight + len(TP_METRICS)), mean_ap], axis=1)


def _interval(values: NDArray[np.float64], *, value: float) -> Interval:
    low, high = np.percentile(values, [2.5, 97.5])
    return Interval(float(value), float(values.mean()), float(low), float(high), float(values.std(ddof=1)))
