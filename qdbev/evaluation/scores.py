"""NDS, mAP and the five true-positive errors of a detection task, with the last bit of nuscenes-devkit's.

Boxes are columns and a class is matched at once, which makes the devkit's loops over boxes superfluous; what is done
with the numbers of classes is the devkit's own ``DetectionMetrics``.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nuscenes.eval.detection.constants import TP_METRICS
from nuscenes.eval.detection.data_classes import DetectionMetrics

from qdbev.evaluation.boxes import Boxes
from qdbev.evaluation.curves import class_scores
from qdbev.evaluation.filters import counted
from qdbev.evaluation.ground_truth import GroundTruth, ground_truth
from qdbev.evaluation.matching import Matches, match
from qdbev.evaluation.reading import boxes_of
from qdbev.evaluation.rules import CONFIG, NUSCENES, Rules

ERRORS = {"trans_err": "mATE", "scale_err": "mASE", "orient_err": "mAOE", "vel_err": "mAVE", "attr_err": "mAAE"}


@dataclass(frozen=True)
class Scores:
    """Scores of one submission; errors and AP per class are NaN where the devkit defines none."""

    nds: float
    mean_ap: float
    errors: dict[str, float]  # mATE m, mASE 1 - IoU, mAOE rad, mAVE m/s, mAAE 1 - accuracy
    classes: dict[str, dict[str, float]]  # class -> AP, ATE, ASE, AOE, AVE, AAE
    samples: int

    def flat(self) -> dict[str, float]:
        """NDS, mAP and the five errors in one dict."""
        return {"NDS": self.nds, "mAP": self.mean_ap, **self.errors}

    def serialize(self) -> dict[str, Any]:
        """The same as plain JSON values (NaN becomes None)."""
        return json.loads(json.dumps(asdict(self)).replace("NaN", "null"))


def score(
    root: Path | str,
    *,
    version: str,
    submission: Mapping[str, Any] | Path | str,
    scenes: Sequence[str] | None = None,
    rules: Rules = NUSCENES,
) -> Scores:
    """Score a submission on some scenes (all of the tables where None).

    Args:
        root: Folder of the nuScenes tree.
        version: Table folder, such as v1.0-trainval.
        submission: The result dict (``{"meta", "results"}``) or a JSON file of it; samples outside the scenes are
            ignored, as the devkit does with samples outside its split.
        scenes: Scene names to evaluate on.
        rules: Classes, ranges and the rest; nuScenes' where not stated.

    Raises:
        ValueError: a scene or a sample is missing, a sample has more than 500 boxes, or the file is no submission.
    """
    return scores_of(matches_of(submission, truth=ground_truth(root, version=version, scenes=scenes, rules=rules)))


def matches_of(submission: Mapping[str, Any] | Path | str, *, truth: GroundTruth) -> Matches:
    """A submission matched with ground truth; raises as ``score``."""
    predictions = predicted_boxes(submission, truth=truth)
    return match(truth.boxes, predictions=predictions, scene_of=truth.scene_of, rules=truth.rules)


def predicted_boxes(submission: Mapping[str, Any] | Path | str, *, truth: GroundTruth) -> Boxes:
    """Predictions on the samples of ``truth`` that count; raises as ``score``."""
    boxes = boxes_of(submission, scene_of=truth.scene_of, rules=truth.rules)
    return counted(boxes, at=truth.surroundings, rules=truth.rules)


def scores_of(matches: Matches) -> Scores:
    """The scores of matches on all their scenes."""
    metrics = DetectionMetrics(matches.rules)
    for name, matched in matches.classes.items():
        aps, errors = class_scores(matched)
        for threshold, ap in zip(CONFIG.dist_ths, aps, strict=True):
            metrics.add_label_ap(name, threshold, ap)
        for metric, error in zip(TP_METRICS, errors.tolist(), strict=True):
            metrics.add_label_tp(name, metric, np.nan if (name, metric) in matches.rules.no_value else error)
    return named(metrics, samples=matches.samples)


def nds_over(classes: Mapping[str, Mapping[str, float | None]]) -> float:
    """NDS over some classes alone.

    Args:
        classes: Their rows of ``Scores.classes``, undefined errors NaN or None.

    >>> row = {"AP": 0.4, "ATE": 0.5, "ASE": 0.3, "AOE": 1.5, "AVE": None, "AAE": 0.2}
    >>> round(nds_over({"car": row, "cone": row | {"AP": 0.2}}), 6)  # (5 * 0.3 + 0.5 + 0.7 + 0 + 0 + 0.8) / 10
    0.35
    """
    columns = {key: [row[key] for row in classes.values()] for key in ("AP", *(short[1:] for short in ERRORS.values()))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an error that no class is asked for
        mean_ap, *errors = (np.nanmean(np.array(column, dtype=np.float64)) for column in columns.values())
    goodness = np.nan_to_num(np.maximum(0.0, 1.0 - np.array(errors))).sum()
    return float((CONFIG.mean_ap_weight * mean_ap + goodness) / (CONFIG.mean_ap_weight + len(errors)))


def named(metrics: DetectionMetrics, *, samples: int) -> Scores:
    """The devkit's metrics object as ``Scores``."""
    aps = metrics.mean_dist_aps
    table = {
        name: {"AP": float(aps[name])}
        | {short[1:]: float(metrics.get_label_tp(name, key)) for key, short in ERRORS.items()}
        for name in metrics.cfg.class_names
    }
    errors = {short: float(metrics.tp_errors[key]) for key, short in ERRORS.items()}
    return Scores(float(metrics.nd_score), float(metrics.mean_ap), errors, table, samples)
