"""Greedy matching of predictions to ground truth as the devkit's ``accumulate`` does it, once, for many resamples.

Matching of one sample does not depend on other samples (predictions of a class are taken by descending score, each
takes its nearest free ground truth, a match below the distance threshold counts). So the matches of all samples are
found once, and any multiset of scenes is scored by adding them up again, to the devkit's own numbers.
Tie rules of the devkit: of two equal scores the LATER prediction comes first; of two equal distances the EARLIER truth.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from qdbev.evaluation.boxes import Boxes, Floats, Ints
from qdbev.evaluation.pair_errors import distances, pair_errors
from qdbev.evaluation.rules import CONFIG, NUSCENES, Rules

_PAIRS_AT_ONCE = 1 << 20
_ROUNDING = 1 + 1e-9


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
    """Matches of one submission on S samples: one entry per class, over the named scenes."""

    scenes: tuple[str, ...]
    classes: dict[str, ClassMatches]
    samples: int
    rules: Rules = NUSCENES


def match(truth: Boxes, *, predictions: Boxes, scene_of: Mapping[str, str], rules: Rules = NUSCENES) -> Matches:
    """Match filtered predictions to filtered ground truth.

    Args:
        truth: Boxes that count.
        predictions: Likewise.
        scene_of: Scene name of every sample token; samples are numbered in its order.
        rules: What the labels and distances are of.
    """
    scenes = tuple(dict.fromkeys(scene_of.values()))
    numbers = {name: number for number, name in enumerate(scenes)}
    scene = np.array([numbers[name] for name in scene_of.values()], dtype=np.int64)
    classes = {
        rule.name: _match_class(
            truth.where(truth.label == label),
            ranked=predictions.where(_ranked(predictions, label=label)),
            scene=scene,
            period=np.pi if rule.half_turn else 2 * np.pi,
        )
        for label, rule in enumerate(rules.classes)
    }
    return Matches(scenes, classes, len(scene_of), rules)


def _ranked(predictions: Boxes, *, label: int) -> Ints:
    """The rows of one class, best first."""
    rows = np.flatnonzero(predictions.label == label)
    return rows[np.argsort(predictions.score[rows], kind="stable")[::-1]]


def _match_class(truth: Boxes, *, ranked: Boxes, scene: Ints, period: float) -> ClassMatches:
    """Match the boxes of one class; ``ranked`` are best first, ``scene`` is that of each sample."""
    pairs = _near_pairs(truth, ranked=ranked, limit_m=max(CONFIG.dist_ths))
    taken = [_greedy(*pairs, threshold_m=threshold) for threshold in CONFIG.dist_ths]
    rows, targets = taken[CONFIG.dist_ths.index(CONFIG.dist_th_tp)]
    return ClassMatches(
        positives=np.bincount(scene[truth.sample], minlength=int(scene.max(initial=-1)) + 1).astype(np.int64),
        scene=scene[ranked.sample],
        confidence=ranked.score,
        hits=tuple(hits for hits, _ in taken),
        errors=pair_errors(truth.where(targets), boxes=ranked.where(rows), period=period),
    )


def _near_pairs(truth: Boxes, *, ranked: Boxes, limit_m: float) -> tuple[Ints, Ints, Floats]:
    """(prediction, truth, distance) of all pairs of one sample below ``limit_m``, by prediction, distance, truth."""
    blocks = [np.concatenate(part) for part in zip(*_blocks(truth, ranked=ranked, limit_m=limit_m), strict=True)]
    if not blocks:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    row, target, distance = blocks
    order = np.lexsort((target, distance, row))
    return row[order], target[order], distance[order]


def _blocks(truth: Boxes, *, ranked: Boxes, limit_m: float) -> Iterator[tuple[Ints, Ints, Floats]]:
    """Near pairs of so many predictions at a time that their pairs fit in memory; ``truth`` is sample after sample."""
    first, last = (np.searchsorted(truth.sample, ranked.sample, side=side) for side in ("left", "right"))
    counts = last - first
    starts = np.flatnonzero(np.diff(np.cumsum(counts) // _PAIRS_AT_ONCE, prepend=-1))
    for start, stop in itertools.pairwise([*starts.tolist(), len(counts)]):
        block = counts[start:stop]
        row = np.repeat(np.arange(start, stop), block)
        target = np.arange(len(row)) - np.repeat(np.cumsum(block) - block, block) + np.repeat(first[start:stop], block)
        apart = ranked.translation[row, :2] - truth.translation[target, :2]
        near = np.flatnonzero((apart**2).sum(axis=1) < limit_m**2 * _ROUNDING)
        distance = distances(apart[near])
        inside = distance < limit_m
        yield row[near][inside], target[near][inside], distance[inside]


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
