"""The same scores by nuscenes-devkit itself: its tables, its boxes, its filters, its DetectionEval.

Slow, and held in memory as objects; it is what the scores of ``qdbev.evaluation.scores`` are held against.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from nuscenes import NuScenes
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.common.loaders import (
    add_center_dist,
    filter_eval_boxes,
    load_gt_of_sample_tokens,
    load_prediction_of_sample_tokens,
)
from nuscenes.eval.detection.data_classes import DetectionBox
from nuscenes.eval.detection.evaluate import DetectionEval

from qdbev.evaluation.scores import Scores, named


class SceneEval(DetectionEval):
    """DetectionEval on ready boxes: same ``evaluate``, no split of the devkit's own."""

    def __init__(self, truth: EvalBoxes, *, predictions: EvalBoxes) -> None:
        self.cfg = config_factory("detection_cvpr_2019")
        self.verbose = False
        self.gt_boxes, self.pred_boxes = truth, predictions
        self.sample_tokens = truth.sample_tokens

    def scores(self) -> Scores:
        """Run the inherited evaluation and name its numbers."""
        with quiet():
            metrics, _ = self.evaluate()
        return named(metrics, samples=len(self.sample_tokens))


def devkit_scores(root: Path | str, *, version: str, submission: Path, tokens: Sequence[str]) -> Scores:
    """Score a submission file on some samples, in their order.

    Args:
        root: Folder of the nuScenes tree.
        version: Table folder.
        submission: A JSON file that holds all the samples.
        tokens: Of the samples.
    """
    config = config_factory("detection_cvpr_2019")
    with quiet():
        tables = NuScenes(version=version, dataroot=str(root), verbose=False)
        truth = load_gt_of_sample_tokens(tables, list(tokens), DetectionBox)
        predictions, _ = load_prediction_of_sample_tokens(
            str(submission), config.max_boxes_per_sample, DetectionBox, sample_tokens=list(tokens)
        )
        boxes = [_filtered(boxes, tables=tables, class_range=config.class_range) for boxes in (truth, predictions)]
    return SceneEval(boxes[0], predictions=boxes[1]).scores()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Swallow what the devkit prints, and numpy's warnings about classes without any match."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        np.errstate(all="ignore"),
    ):
        yield


def _filtered(boxes: EvalBoxes, *, tables: NuScenes, class_range: dict[str, float]) -> EvalBoxes:
    """Distance, point-count and bicycle-rack filters of the devkit, which cannot take a set without any box."""
    boxes = add_center_dist(tables, boxes)
    return filter_eval_boxes(tables, boxes, class_range) if boxes.all else boxes
