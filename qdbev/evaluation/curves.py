"""Precision and confidence over recall, and the errors along it: from the matches of a class to its scores.

Source: nuscenes-devkit, ``eval/detection/algo.py`` (``accumulate`` behind the matching, ``calc_ap``, ``calc_tp``).
"""

from __future__ import annotations

import numpy as np
from nuscenes.eval.detection.constants import TP_METRICS
from nuscenes.eval.detection.data_classes import DetectionMetricData

from qdbev.evaluation.boxes import Floats, Ints
from qdbev.evaluation.matching import ClassMatches
from qdbev.evaluation.rules import CONFIG

RECALLS = np.linspace(0, 1, DetectionMetricData.nelem)
FIRST = round(100 * CONFIG.min_recall) + 1  # recalls below are not scored
TP_PLACE = CONFIG.dist_ths.index(CONFIG.dist_th_tp)


def class_scores(matched: ClassMatches) -> tuple[list[float], Floats]:
    """AP at each distance threshold, and the five true-positive errors, of one class on all scenes once."""
    positives = int(matched.positives.sum())
    aps, errors = [], np.ones(len(TP_METRICS))
    for place, hits in enumerate(matched.hits):
        if positives == 0 or len(hits) == 0:
            aps.append(0.0)
            continue
        recall, precision = _at_each_prediction(hits, predictions=len(matched.confidence), positives=positives)
        aps.append(average_precision(recall, precision=precision))
        if place == TP_PLACE:
            levels = np.interp(RECALLS, recall, matched.confidence, right=0)
            errors = mean_errors(matched.errors, confidence=matched.confidence[hits], levels=levels)
    return aps, errors


def _at_each_prediction(hits: Ints, *, predictions: int, positives: int) -> tuple[Floats, Floats]:
    """Recall and precision (P,) after each prediction, best first."""
    hit = np.zeros(predictions)
    hit[hits] = 1.0
    found = np.cumsum(hit)
    return found / float(positives), found / np.arange(1, predictions + 1)


def average_precision(recall: Floats, *, precision: Floats) -> float:
    """Mean of the precision above the least that counts, over the recalls that are scored."""
    curve = np.interp(RECALLS, recall, precision, right=0)[FIRST:] - CONFIG.min_precision
    return float(np.mean(np.maximum(curve, 0))) / (1.0 - CONFIG.min_precision)


def mean_errors(errors: Floats, *, confidence: Floats, levels: Floats) -> Floats:
    """Cumulative mean errors (5,) averaged over the recalls from the first that is scored to the highest reached.

    Args:
        errors: (5, H) of the hits, best first; NaN where one has no value.
        confidence: (H,) of the hits.
        levels: (101,) confidence at each recall, 0 where it is not reached.
    """
    reached = np.flatnonzero(levels)
    last = int(reached[-1]) if len(reached) else 0
    if last < FIRST:
        return np.ones(len(errors))
    known = ~np.isnan(errors)
    sums, counts = np.cumsum(np.where(known, errors, 0.0), axis=1), np.cumsum(known, axis=1)
    means = np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)
    means[~known.any(axis=1)] = 1.0
    wanted = levels[::-1]
    curves = [np.interp(wanted, confidence[::-1], row[::-1])[::-1] for row in means]
    return np.array([np.mean(curve[FIRST : last + 1]) for curve in curves])
