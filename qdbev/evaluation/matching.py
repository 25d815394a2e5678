"""Greedy matching of predictions to ground truth as the devkit's ``accumulate`` does it, once, for many resamples.

Matching of one sample does not depend on other samples (predictions of a class are taken by descending score, each
takes its nearest free ground truth, a match below the distance threshold counts). So the matches of all samples are
found once, and any multiset of scenes is scored by adding them up again, to the devkit's own numbers.
Tie rule of the devkit: of two equal scores the LATER prediction comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.common.utils import attr_acc, center_distance, scale_iou, velocity_l2, yaw_diff
from nuscenes.eval.detection.constants import TP_METRICS
from nuscenes.eval.detection.data_classes import DetectionBox

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ClassMatches:
    """All predictions of one class, best first (P of them), and what they matched.

    ``positives`` (S,) ground truth boxes per scene; ``scene`` (P,) scene index; ``confidence`` (P,); ``hits`` one array
    of indices into the predictions per distance threshold, ascending; ``errors`` (5, H) in the order of the devkit's
    TP_METRICS for the hits at the true-positive threshold, NaN where the metric has no value.
    """

    positives: Ints
    scene: Ints
    confidence: Floats
    hits: tuple[Ints, ...]
    errors: Floats


@dataclass(frozen=True, eq=False)
class Matches:
    """Matches of one submission: one entry per class, over the named scenes."""

    scenes: tuple[str, ...]
    classes: dict[str, ClassMatches]


def match(truth: EvalBoxes, *, predictions: EvalBoxes, scene_of: dict[str, str]) -> Matches:
    """Match filtered predictions to filtered ground truth.

    Args:
        truth: The devkit's boxes by sample token, after its filters.
        predictions: Likewise.
        scene_of: Scene name of every sample token; samples are taken in the order of ``truth``.
    """
    scenes = tuple(dict.fromkeys(scene_of[token] for token in truth.sample_tokens))
    numbers = {name: number for number, name in enumerate(scenes)}
    scene_index = {token: numbers[scene_of[token]] for token in truth.sample_tokens}
    names = list(config_factory("detection_cvpr_2019").class_names)
    truths, predicted = (_by_class(boxes) for boxes in (truth, predictions))
    return Matches(
        scenes,
        {
            name: _match_class(
                truths.get(name, []),
                predictions=predicted.get(name, []),
                scene_index=scene_index,
                scenes=len(scenes),
                name=name,
            )
            for name in names
        },
    )


def _by_class(boxes: EvalBoxes) -> dict[str, list[DetectionBox]]:
    """Boxes of each class in the devkit's order: sample after sample."""
    classes: dict[str, list[DetectionBox]] = {}
    for box in boxes.all:
        classes.setdefault(box.detection_name, []).append(box)
    return classes


def _match_class(
    truths: Sequence[DetectionBox],
    *,
    predictions: Sequence[DetectionBox],
    scene_index: dict[str, int],
    scenes: int,
    name: str,
) -> ClassMatches:
    scores = np.array([box.detection_score for box in predictions], dtype=np.float64)
    order = np.lexsort((np.arange(len(scores)), scores))[::-1]
    ranked = [predictions[index] for index in order]
    config = config_factory("detection_cvpr_2019")
    pairs = _near_pairs(truths, ranked=ranked, limit_m=max(config.dist_ths))
    taken = [_greedy(*pairs, threshold_m=threshold) for threshold in config.dist_ths]
    for_errors = taken[config.dist_ths.index(config.dist_th_tp)]
    return ClassMatches(
        positives=np.bincount([scene_index[box.sample_token] for box in truths], minlength=scenes).astype(np.int64),
        scene=np.array([scene_index[box.sample_token] for box in ranked], dtype=np.int64),
        confidence=scores[order],
        hits=tuple(rows for rows, _ in taken),
        errors=_errors([(truths[target], ranked[row]) for row, target in zip(*for_errors, strict=True)], name=name),
    )


def _near_pairs(
    truths: Sequence[DetectionBox], *, ranked: Sequence[DetectionBox], limit_m: float
) -> tuple[Ints, Ints, Floats]:
    """(prediction, truth, distance) of all pairs of one sample below ``limit_m``, by prediction, distance, truth."""
    rows_of: dict[str, list[int]] = {}
    targets_of: dict[str, list[int]] = {}
    for boxes, places in ((ranked, rows_of), (truths, targets_of)):
        for index, box in enumerate(boxes):
            places.setdefault(box.sample_token, []).append(index)
    rows, targets, distances = [], [], []
    for token in rows_of.keys() & targets_of.keys():
        row, target = np.array(rows_of[token]), np.array(targets_of[token])
        start = np.array([ranked[index].translation[:2] for index in row])
        end = np.array([truths[index].translation[:2] for index in target])
        distance = np.sqrt(((start[:, None] - end[None]) ** 2).sum(axis=2))
        left, right = np.nonzero(distance < limit_m)
        rows.append(row[left])
        targets.append(target[right])
        distances.append(distance[left, right])
    if not rows:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    row, target, distance = (np.concatenate(part) for part in (rows, targets, distances))
    order = np.lexsort((target, distance, row))
    return row[order], target[order], distance[order]


def _greedy(rows: Ints, targets: Ints, distances: Floats, *, threshold_m: float) -> tuple[Ints, Ints]:
    """Predictions that hit, ascending, and the truth each takes."""
    near = distances < threshold_m
    hits: dict[int, int] = {}
    taken: set[int] = set()
    for row, target in zip(rows[near].tolist(), targets[near].tolist(), strict=True):
        if row not in hits and target not in taken:
            hits[row] = target
            taken.add(target)
    return np.array(list(hits), dtype=np.int64), np.array(list(hits.values()), dtype=np.int64)


def _errors(pairs: Sequence[tuple[DetectionBox, DetectionBox]], *, name: str) -> Floats:
    """The five true-positive errors (5, H) of matched (truth, prediction) pairs, by the devkit's own functions."""
    period = np.pi if name == "barrier" else 2 * np.pi
    functions = {
        "trans_err": center_distance,
        "scale_err": lambda truth, box: 1 - scale_iou(truth, box),
        "orient_err": lambda truth, box: yaw_diff(truth, box, period=period),
        "vel_err": velocity_l2,
        "attr_err": lambda truth, box: 1 - attr_acc(truth, box),
    }
    rows = [[float(functions[metric](*pair)) for pair in pairs] for metric in TP_METRICS]
    return np.array(rows, dtype=np.float64).reshape(len(TP_METRICS), len(pairs))
