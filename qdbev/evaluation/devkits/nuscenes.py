"""The same scores by nuscenes-devkit itself: its tables, its boxes, its filters, its DetectionEval.

Slow, and held in memory as objects; it is what the scores of ``qdbev.evaluation.scores`` are held against. Classes of
other data sets: its configuration and its boxes assert nuScenes' ten names, so those two are subclassed, and the
categories and the clock are the rules' own. What matches, averages and sums is the devkit's in every case.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nuscenes import NuScenes
from nuscenes.eval.common.data_classes import EvalBox, EvalBoxes
from nuscenes.eval.common.loaders import (
    add_center_dist,
    filter_eval_boxes,
    load_gt_of_sample_tokens,
    load_prediction_of_sample_tokens,
)
from nuscenes.eval.detection.data_classes import DetectionBox, DetectionConfig
from nuscenes.eval.detection.evaluate import DetectionEval

from qdbev.evaluation.rules import CONFIG, NUSCENES, Rules
from qdbev.evaluation.scores import Scores, named


class RigConfig(DetectionConfig):
    """The devkit's configuration with classes of any name; its distances and thresholds stay."""

    def __init__(self, rules: Rules) -> None:
        self.__dict__.update(CONFIG.__dict__)
        self.class_range, self.class_names = rules.class_range, rules.class_names
        self.max_boxes_per_sample = rules.max_boxes_per_sample


class RigBox(DetectionBox):
    """The devkit's box with a class and an attribute of any name."""

    def __init__(
        self, *, detection_name: str, attribute_name: str, detection_score: float = -1.0, **place: Any
    ) -> None:
        EvalBox.__init__(self, **place)
        self.detection_name, self.attribute_name = detection_name, attribute_name
        self.detection_score = detection_score


class SceneEval(DetectionEval):
    """DetectionEval on ready boxes: same ``evaluate``, no split of the devkit's own."""

    def __init__(self, truth: EvalBoxes, *, predictions: EvalBoxes, rules: Rules = NUSCENES) -> None:
        self.cfg, self.rules = RigConfig(rules), rules
        self.verbose = False
        self.gt_boxes, self.pred_boxes = truth, predictions
        self.sample_tokens = truth.sample_tokens

    def scores(self) -> Scores:
        """Run the inherited evaluation and name its numbers."""
        with quiet():
            metrics, _ = self.evaluate()
        for name, error in self.rules.no_value:  # the devkit leaves out those of nuScenes alone
            metrics.add_label_tp(name, error, np.nan)
        return named(metrics, samples=len(self.sample_tokens))


def devkit_scores(
    root: Path | str, *, version: str, submission: Path, tokens: Sequence[str], rules: Rules = NUSCENES
) -> Scores:
    """Score a submission file on some samples, in their order.

    Args:
        root: Folder of the nuScenes tree.
        version: Table folder.
        submission: A JSON file that holds all the samples.
        tokens: Of the samples.
        rules: Classes, ranges and the rest.

    Raises:
        ValueError: A class turns by half a turn for which the devkit takes a whole one.
    """
    if not rules.scores_like_nuscenes:
        raise ValueError(
            "nuscenes-devkit takes a half turn for the class barrier alone, and data.rig has other half turns; its "
            "scores would be others by definition"
        )
    with quiet():
        tables = NuScenes(version=version, dataroot=str(root), verbose=False)
        truth = _truth(tables, tokens=tokens, rules=rules)
        predictions, _ = load_prediction_of_sample_tokens(
            str(submission), rules.max_boxes_per_sample, _box(rules), sample_tokens=list(tokens)
        )
        boxes = [_filtered(boxes, tables=tables, rules=rules) for boxes in (truth, predictions)]
    return SceneEval(boxes[0], predictions=boxes[1], rules=rules).scores()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Swallow what the devkit prints, and numpy's warnings about classes without any match."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        np.errstate(all="ignore"),
    ):
        yield


def _box(rules: Rules) -> type[DetectionBox]:
    return DetectionBox if rules.classes == NUSCENES.classes else RigBox


def _truth(tables: NuScenes, *, tokens: Sequence[str], rules: Rules) -> EvalBoxes:
    """Annotations of the classes; for nuScenes' own the devkit's loader, which holds its categories."""
    if rules.classes == NUSCENES.classes:
        return load_gt_of_sample_tokens(tables, list(tokens), DetectionBox)
    truth = EvalBoxes()
    for token in tokens:
        rows = [tables.get("sample_annotation", name) for name in tables.get("sample", token)["anns"]]
        known = [row for row in rows if row["category_name"] in rules.class_of]
        truth.add_boxes(token, [_annotated(row, tables=tables, rules=rules) for row in known])
    return truth


def _annotated(row: dict[str, Any], *, tables: NuScenes, rules: Rules) -> RigBox:
    attributes = [tables.get("attribute", token)["name"] for token in row["attribute_tokens"]]
    return RigBox(
        sample_token=row["sample_token"],
        translation=row["translation"],
        size=row["size"],
        rotation=row["rotation"],
        velocity=tables.box_velocity(row["token"])[:2],
        num_pts=row["num_lidar_pts"] + row["num_radar_pts"],
        detection_name=rules.class_of[row["category_name"]],
        attribute_name=attributes[0] if attributes else "",
    )


def _filtered(boxes: EvalBoxes, *, tables: NuScenes, rules: Rules) -> EvalBoxes:
    """Distance, point-count and bicycle-rack filters of the devkit, which cannot take a set without any box."""
    if rules.clock == NUSCENES.clock:
        boxes = add_center_dist(tables, boxes)
    else:
        _add_distances(boxes, tables=tables, clock=rules.clock)
    return filter_eval_boxes(tables, boxes, rules.class_range) if boxes.all else boxes


def _add_distances(boxes: EvalBoxes, *, tables: NuScenes, clock: str) -> None:
    """What ``add_center_dist`` does at the time of nuScenes' LiDAR, at that of another sensor."""
    for token in boxes.sample_tokens:
        data = tables.get("sample_data", tables.get("sample", token)["data"][clock])
        place = tables.get("ego_pose", data["ego_pose_token"])["translation"]
        for box in boxes[token]:
            box.ego_translation = tuple(np.subtract(box.translation, place).tolist())
