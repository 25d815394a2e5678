"""Scores of MAN TruckScenes by its own devkit, which is installed apart: its tables, boxes, filters and DetectionEval.

``pip install truckscenes-devkit`` brings it (1.2.0, Apache-2.0, Python below 3.12). Its splits name scenes of the data
set, so samples are named here; everything behind them is the devkit's.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from qdbev.evaluation.devkits.nuscenes import quiet
from qdbev.evaluation.scores import Scores, named

CONFIGURATION = "detection_cvpr_2024"
_ALL = "all"  # of the tags that it scores apart


def truckscenes_scores(root: Path | str, *, version: str, submission: Path, tokens: Sequence[str]) -> Scores:
    """Score a submission file on some samples, in their order.

    Args:
        root: Folder of the tree.
        version: Table folder.
        submission: A JSON file that holds exactly the samples.
        tokens: Of the samples.

    Raises:
        ValueError: The devkit is not installed.
    """
    devkit = _devkit()
    config = devkit.config.config_factory(CONFIGURATION)
    with quiet():
        tables = devkit.truckscenes.TruckScenes(version, str(root), verbose=False)
        box = devkit.data.DetectionBox
        predictions, _ = devkit.loaders.load_prediction(str(submission), config.max_boxes_per_sample, box)
        truth = _truth(devkit, tables=tables, tokens=tokens)
        found = [_filtered(devkit, boxes, tables=tables, config=config) for boxes in (truth, predictions)]
        metrics, _ = _evaluation(devkit, truth=found[0], predictions=found[1], config=config).evaluate()
    return named(metrics[_ALL], samples=len(tokens))


def _devkit() -> SimpleNamespace:
    names = {
        "truckscenes": "truckscenes",
        "config": "truckscenes.eval.detection.config",
        "data": "truckscenes.eval.detection.data_classes",
        "boxes": "truckscenes.eval.common.data_classes",
        "evaluate": "truckscenes.eval.detection.evaluate",
        "loaders": "truckscenes.eval.common.loaders",
        "classes": "truckscenes.eval.detection.utils",
    }
    try:
        return SimpleNamespace(**{name: import_module(module) for name, module in names.items()})
    except ImportError as error:
        raise ValueError(
            f"TruckScenes' own devkit is not here ({error}): `pip install truckscenes-devkit`, on Python below 3.12"
        ) from error


def _truth(devkit: SimpleNamespace, *, tables: Any, tokens: Sequence[str]) -> Any:
    truth = devkit.boxes.EvalBoxes()
    for token in tokens:
        rows = [tables.get("sample_annotation", name) for name in tables.get("sample", token)["anns"]]
        named_rows = [(devkit.classes.category_to_detection_name(row["category_name"]), row) for row in rows]
        boxes = [_box(devkit, row, tables=tables, name=name) for name, row in named_rows if name is not None]
        truth.add_boxes(token, boxes)
    return truth


def _box(devkit: SimpleNamespace, row: dict[str, Any], *, tables: Any, name: str) -> Any:
    attributes = [tables.get("attribute", token)["name"] for token in row["attribute_tokens"]]
    return devkit.data.DetectionBox(
        sample_token=row["sample_token"],
        translation=row["translation"],
        size=row["size"],
        rotation=row["rotation"],
        velocity=tables.box_velocity(row["token"])[:2],
        num_pts=row["num_lidar_pts"] + row["num_radar_pts"],
        detection_name=name,
        attribute_name=attributes[0] if attributes else "",
    )


def _filtered(devkit: SimpleNamespace, boxes: Any, *, tables: Any, config: Any) -> Any:
    """Its filters, which cannot take a set without any box."""
    boxes = devkit.loaders.add_center_dist(tables, boxes)
    return devkit.loaders.filter_eval_boxes(tables, boxes, config.class_range) if boxes.all else boxes


def _evaluation(devkit: SimpleNamespace, *, truth: Any, predictions: Any, config: Any) -> Any:
    """Its DetectionEval on ready boxes, without tags."""
    evaluation = object.__new__(devkit.evaluate.DetectionEval)
    evaluation.cfg, evaluation.verbose = config, False
    evaluation.gt_boxes, evaluation.pred_boxes = truth, predictions
    evaluation.gt_boxes_masks = evaluation.pred_boxes_masks = {}
    return evaluation
