"""The scores of one class on many multisets of scenes at once, as the devkit would score repeated scenes.

A prediction that is there k times is k predictions. The devkit interpolates precision, confidence and errors over
recall; between two hits recall does not move, so at a recall only the prediction just before a hit and the hit itself
matter, and both are looked up instead of walking along every prediction of every draw.

Shapes: R draws, S scenes, P predictions of the class (best first), H of them hits, 101 recalls.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from nuscenes.eval.detection.constants import TP_METRICS

from qdbev.evaluation.boxes import Floats, Ints
from qdbev.evaluation.curves import FIRST, RECALLS, TP_PLACE
from qdbev.evaluation.matching import ClassMatches
from qdbev.evaluation.rules import CONFIG


def drawn_class_scores(matched: ClassMatches, *, weights: Ints) -> tuple[Floats, Floats]:
    """AP (R,) averaged over the thresholds, and the five true-positive errors (R, 5), of one class.

    Args:
        matched: Matches of the class on all scenes.
        weights: (R, S) how often each scene is there.
    """
    positives = weights @ matched.positives
    copies = weights[:, matched.scene]
    seen = np.cumsum(copies, axis=1)
    precisions, errors = np.zeros((len(weights), len(matched.hits))), np.ones((len(weights), len(TP_METRICS)))
    for number, hits in enumerate(matched.hits):
        if not len(hits):
            continue
        curves = _Curves(copies[:, hits], seen=seen, seen_at_hits=seen[:, hits], positives=positives)
        above = np.maximum(curves.precision()[:, FIRST:] - CONFIG.min_precision, 0)
        precisions[:, number] = above.mean(axis=1) / (1.0 - CONFIG.min_precision)
        if number == TP_PLACE:
            levels = curves.confidence(matched.confidence)
            errors = _mean_errors(matched.errors, times=copies[:, hits], of=matched.confidence[hits], levels=levels)
    return precisions.mean(axis=1), errors


class _Curves:
    """What the devkit interpolates, at the recalls that it asks for, a row a draw.

    Args:
        times: (R, H) copies of each prediction that hits.
        seen: (R, P) predictions up to each prediction.
        seen_at_hits: (R, H) the same of those that hit.
        positives: (R,) boxes to find.
    """

    def __init__(self, times: Ints, *, seen: Ints, seen_at_hits: Ints, positives: Ints) -> None:
        found = np.cumsum(times, axis=1)
        self.seen, self.positives = seen, np.maximum(positives, 1)[:, None]
        self.hits = np.where(positives > 0, found[:, -1], 0)[:, None]
        self.before = np.stack([_hits_before(int(count)) for count in self.positives[:, 0]])
        self.between = self.before < self.hits
        self.reached = (self.hits > 0) & (self.hits / self.positives >= RECALLS)
        place = np.minimum(_first_above(found, self.before), found.shape[1] - 1)
        last, earlier = (np.take_along_axis(rows - times, place, axis=1) for rows in (seen_at_hits, found))
        self.at_hit = np.where(self.between, last + self.before - earlier + 1, 1)

    def precision(self) -> Floats:
        """(R, 101) precision, 0 where a recall is not reached."""
        before, at_hit = self.before / np.maximum(self.at_hit - 1, 1), (self.before + 1) / self.at_hit
        return self._interpolated(before, at_hit=at_hit, end=self.hits / np.maximum(self.seen[:, -1:], 1))

    def confidence(self, confidence: Floats) -> Floats:
        """(R, 101) confidence, of the (P,) of all predictions; 0 where a recall is not reached."""
        numbers = (np.maximum(self.at_hit - 1, 1), self.at_hit, self.seen[:, -1:])
        places = (np.minimum(_first_above(self.seen, number - 1), len(confidence) - 1) for number in numbers)
        before, at_hit, end = (confidence[place] for place in places)
        return self._interpolated(before, at_hit=at_hit, end=end)

    def _interpolated(self, before: Floats, *, at_hit: Floats, end: Floats) -> Floats:
        before = np.where(self.at_hit == 1, at_hit, before)  # nothing comes before a first prediction that hits
        left, right = self.before / self.positives, (self.before + 1) / self.positives
        inside = (at_hit - before) / (right - left) * (RECALLS - left) + before
        return np.where(self.between, inside, np.where(self.reached, end, 0.0))


@lru_cache(maxsize=4096)
def _hits_before(positives: int) -> Ints:
    """(101,) how many hits leave recall at or below each of the recalls."""
    return np.searchsorted(np.arange(1, positives + 1) / float(positives), RECALLS, side="right")


def _first_above(rows: Ints, values: Ints) -> Ints:
    """In each row of ascending ``rows`` (R, N) the place (R, V) of its first entry above each of ``values`` (R, V)."""
    step = int(max(rows[:, -1].max(), values.max())) + 1
    shift = step * np.arange(len(rows))[:, None]
    flat = np.searchsorted((rows + shift).ravel(), (values + shift).ravel(), side="right")
    return flat.reshape(values.shape) - rows.shape[1] * np.arange(len(rows))[:, None]


def _mean_errors(errors: Floats, *, times: Ints, of: Floats, levels: Floats) -> Floats:
    """Cumulative mean errors (R, 5) averaged over the recalls from the first that is scored to the highest reached.

    Args:
        errors: (5, H) of the hits, best first; NaN where one has no value.
        times: (R, H) copies of each.
        of: (H,) their confidence.
        levels: (R, 101) confidence at each recall, 0 where it is not reached.
    """
    places = np.arange(levels.shape[1])
    last = np.max(np.where(levels != 0, places, 0), axis=1)
    counted = (places >= FIRST) & (places <= last[:, None])
    between = _Between(levels, times=times, of=of)
    means = np.ones((len(levels), len(errors)))
    for column, values in enumerate(errors):
        curve, any_known = between.cumulative_mean(values)
        mean = np.where(counted, curve, 0.0).sum(axis=1) / np.maximum(counted.sum(axis=1), 1)
        means[:, column] = np.where(any_known & (last >= FIRST), mean, 1.0)
    return means


class _Between:
    """Which two copies of hits lie around each level of confidence, and how far from the lower one the level is.

    Args:
        levels: (R, 101).
        times: (R, H) copies of each hit, best first.
        of: (H,) their confidence.
    """

    def __init__(self, levels: Floats, *, times: Ints, of: Floats) -> None:
        found, self.times = np.cumsum(times, axis=1), times
        at = np.minimum(np.searchsorted(-of, -levels, side="left"), len(of) - 1)
        earlier = np.where(of[at] <= levels, np.take_along_axis(found - times, at, axis=1), found[:, -1:])
        ends, self.starts = earlier >= found[:, -1:], earlier == 0
        # the first copy of the first drawn hit not above the level, and the last copy of the drawn hit before it
        self.low, self.high = (
            np.minimum(_first_above(found, copy), len(of) - 1) for copy in (earlier, np.maximum(earlier - 1, 0))
        )
        inside = ~ends & ~self.starts
        low, high = of[self.low], of[self.high]
        self.share = np.divide(levels - low, high - low, out=ends.astype(np.float64), where=inside)

    def cumulative_mean(self, values: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        """The cumulative mean (R, 101) of values (H,) at the levels, and (R,) whether any copy has a value."""
        known, filled = ~np.isnan(values), np.nan_to_num(values)
        sums, counts = np.cumsum(self.times * filled, axis=1), np.cumsum(self.times * known, axis=1)
        high_sum, high_count = (
            np.where(self.starts, 0, np.take_along_axis(rows, self.high, axis=1)) for rows in (sums, counts)
        )
        low = _ratio(high_sum + filled[self.low], counts=high_count + known[self.low])
        return low + self.share * (_ratio(high_sum, counts=high_count) - low), counts[:, -1] > 0


def _ratio(sums: Floats, *, counts: Ints) -> Floats:
    """The mean, 0 of nothing."""
    return np.divide(sums, counts, out=np.zeros(sums.shape), where=counts > 0)
