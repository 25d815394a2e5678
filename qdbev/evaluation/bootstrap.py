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
from qdbev.evaluation.curves import RECALLS, TP_PLACE, average_precision, mean_errors
from qdbev.evaluation.matching import ClassMatches, Matches


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
    once = np.ones(len(a.scenes), dtype=np.int64)
    values = np.subtract(scores_from_matches(b, weights=once), scores_from_matches(a, weights=once))
    differences = _drawn(b, resamples=resamples, seed=seed) - _drawn(a, resamples=resamples, seed=seed)
    return {name: _interval(differences[:, place], value=values[place]) for place, name in enumerate(("NDS", "mAP"))}


@lru_cache(maxsize=2)
def _drawn(matches: Matches, *, resamples: int, seed: int) -> Floats:
    """NDS and mAP (resamples, 2) of each draw; kept, as many submissions are compared with one."""
    count = len(matches.scenes)
    draws = np.random.default_rng([seed]).integers(count, size=(resamples, count))
    return np.array([scores_from_matches(matches, weights=np.bincount(draw, minlength=count)) for draw in draws])


def scores_from_matches(matches: Matches, *, weights: Ints) -> tuple[float, float]:
    """NDS and mAP of a multiset of scenes.

    Args:
        matches: Of all scenes.
        weights: (S,) how often each scene is there; all ones gives the devkit's scores.
    """
    errors = np.empty((len(matches.classes), len(TP_METRICS)))
    precisions = np.empty(len(matches.classes))
    for row, (name, matched) in enumerate(matches.classes.items()):
        aps, errors[row] = _class_scores(matched, weights=weights)
        precisions[row] = np.mean(aps)
        for column, metric in enumerate(TP_METRICS):
            if (name, metric) in matches.rules.no_value:
                errors[row, column] = np.nan
    mean_ap = float(np.mean(precisions))
    goodness = np.maximum(0.0, 1.0 - np.nanmean(errors, axis=0))
    weight = matches.rules.mean_ap_weight
    return float((weight * mean_ap + goodness.sum()) / (weight + len(TP_METRICS))), mean_ap


def _class_scores(matched: ClassMatches, *, weights: Ints) -> tuple[list[float], Floats]:
    """AP at each threshold, and the five true-positive errors, of one class."""
    positives = int(matched.positives @ weights)
    copies = weights[matched.scene]
    drawn = copies > 0
    place = np.cumsum(drawn) - 1  # of a prediction among those drawn
    copies, confidence = copies[drawn], matched.confidence[drawn]
    total = np.cumsum(copies)
    aps, errors = [], np.ones(len(TP_METRICS))
    for number, hits in enumerate(matched.hits):
        present = drawn[hits]
        rows = place[hits[present]]
        if positives == 0 or len(rows) == 0:
            aps.append(0.0)
            continue
        recall, precision, level = _curve(rows, copies=copies, total=total, confidence=confidence, positives=positives)
        aps.append(average_precision(recall, precision=precision))
        if number == TP_PLACE:
            times = copies[rows]
            errors = mean_errors(
                np.repeat(matched.errors[:, present], times, axis=1),
                confidence=np.repeat(confidence[rows], times),
                levels=np.interp(RECALLS, recall, level, right=0),
            )
    return aps, errors


def _curve(
    rows: Ints, *, copies: Ints, total: Ints, confidence: Floats, positives: int
) -> tuple[Floats, Floats, Floats]:
    """Recall, precision and confidence at the points between which the devkit's interpolation falls.

    Between two hits recall does not move, so only the prediction just before a hit, the hit itself and the very last
    prediction matter; a prediction that is there k times is k predictions.
    """
    times = copies[rows]
    hit = np.arange(1, times.sum() + 1)  # hits so far, at each copy of a hit
    inside = hit - np.repeat(np.cumsum(times) - times, times)  # 1 .. k within the copies of one prediction
    seen = np.repeat(total[rows] - times, times) + inside  # predictions so far
    at_hit = np.repeat(confidence[rows], times)
    before = np.where(inside > 1, at_hit, np.repeat(confidence[np.maximum(rows - 1, 0)], times))
    recall = np.stack([hit - 1, hit], axis=1).ravel() / float(positives)
    precision = np.stack([(hit - 1) / np.maximum(seen - 1, 1), hit / seen], axis=1).ravel()
    level = np.stack([before, at_hit], axis=1).ravel()
    skip = 1 if seen[0] == 1 else 0  # nothing comes before a first prediction that hits
    return (
        np.append(recall[skip:], hit[-1] / float(positives)),
        np.append(precision[skip:], hit[-1] / total[-1]),
        np.append(level[skip:], confidence[-1]),
    )


def _interval(values: NDArray[np.float64], *, value: float) -> Interval:
    low, high = np.percentile(values, [2.5, 97.5])
    return Interval(float(value), float(values.mean()), float(low), float(high), float(values.std(ddof=1)))
