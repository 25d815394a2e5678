"""Predicted boxes -> the nuScenes detection result format (https://www.nuscenes.org/object-detection).

Boxes come in the LIDAR_TOP frame as mmdet3d 1.x ``LiDARInstance3DBoxes.tensor`` (n, 9): x, y, z of the BOTTOM centre,
length, width, height, yaw counter-clockwise from x, velocity x, y in m/s. Labels index the class list.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pyquaternion import Quaternion

from qdbev.evaluation.rules import NUSCENES, Rules

NOT_FINITE = "not finite"
META = {"use_camera": True, "use_lidar": False, "use_radar": False, "use_map": False, "use_external": False}

CLASSES = (
    "car", "truck", "construction_vehicle", "bus", "trailer",
    "barrier", "motorcycle", "bicycle", "pedestrian", "traffic_cone",
)  # fmt: skip
"""nuScenes' classes as labels of detectors count them."""


def class_ranges(classes: Sequence[str] = CLASSES, *, rules: Rules = NUSCENES) -> NDArray[np.float64]:
    """Evaluation range in metres from the ego vehicle for each class."""
    return np.array([rules.class_range[name] for name in classes], dtype=np.float64)


def sample_result(
    boxes: ArrayLike,
    *,
    scores: ArrayLike,
    labels: ArrayLike,
    token: str,
    lidar2ego: ArrayLike,
    ego2global: ArrayLike,
    classes: Sequence[str] = CLASSES,
    rules: Rules = NUSCENES,
) -> list[dict[str, Any]]:
    """Result entries of one sample, best score first.

    Boxes beyond the range of their class in the ego frame, boxes with a value that is not finite, and all after the
    best 500, or as many as the rules allow, are left out.

    Args:
        boxes: (n, 9), see the module.
        scores: (n,) confidences.
        labels: (n,) indices into ``classes``.
        token: Sample token.
        lidar2ego: (4, 4) calibration of LIDAR_TOP.
        ego2global: (4, 4) ego pose at the lidar's time.
        classes: Class names in the order of the labels.
        rules: Ranges, attributes and the most boxes.
    """
    box = np.asarray(boxes, dtype=np.float64).reshape(-1, 9)
    score = np.asarray(scores, dtype=np.float64).reshape(-1)
    label = np.asarray(labels, dtype=np.int64).reshape(-1)
    if not len(box) == len(score) == len(label):
        raise ValueError(f"sample {token}: got {len(box)} boxes, {len(score)} scores, {len(label)} labels.")
    sensor, pose = np.asarray(lidar2ego, dtype=np.float64), np.asarray(ego2global, dtype=np.float64)
    in_ego = _in_ego(box, sensor=sensor)
    best = np.flatnonzero(_finite(box, score=score) & _near(in_ego, label=label, classes=classes, rules=rules))
    best = best[np.argsort(-score[best], kind="stable")][: rules.max_boxes_per_sample]
    places = in_ego[best] @ pose[:3, :3].T + pose[:3, 3]
    columns = {"translation": places, **_global_columns(box[best], turn=pose[:3, :3] @ sensor[:3, :3])}
    names = [classes[index] for index in label[best].tolist()]
    speeds_mps = np.linalg.norm(columns["velocity"], axis=1).tolist()
    rows = zip(*(values.tolist() for values in columns.values()), strict=True)
    return [
        {
            "sample_token": token,
            **dict(zip(columns, row, strict=True)),
            "detection_name": name,
            "detection_score": confidence,
            "attribute_name": rules.attribute(name, speed_mps=speed_mps),
        }
        for row, name, confidence, speed_mps in zip(rows, names, score[best].tolist(), speeds_mps, strict=True)
    ]


def lidar_boxes(entries: Sequence[Mapping[str, Any]], *, global2lidar: ArrayLike) -> NDArray[np.float64]:
    """Boxes (n, 9) of the module's form that result entries of one sample stand for: ``sample_result`` turned back.

    Args:
        entries: As in a submission.
        global2lidar: (4, 4) from the global frame into that of LIDAR_TOP at the time of the sample.
    """
    to_lidar = np.asarray(global2lidar, dtype=np.float64)
    turn = to_lidar[:3, :3]
    boxes = np.zeros((len(entries), 9))
    for row, entry in enumerate(entries):
        width, length, height = entry["size"]
        heading = turn @ Quaternion(entry["rotation"]).rotation_matrix[:, 0]
        velocity = turn @ [*entry["velocity"], 0.0]
        centre = turn @ entry["translation"] + to_lidar[:3, 3] - [0.0, 0.0, height / 2]
        boxes[row] = [*centre, length, width, height, np.arctan2(heading[1], heading[0]), *velocity[:2]]
    return boxes


def left_out(
    boxes: ArrayLike,
    *,
    scores: ArrayLike,
    labels: ArrayLike,
    lidar2ego: ArrayLike,
    classes: Sequence[str] = CLASSES,
    rules: Rules = NUSCENES,
) -> dict[str, int]:
    """How many boxes ``sample_result`` leaves out, by the reason; arguments as there.

    >>> boxes = [[0, 5, 0, 4, 2, 1, 0, 0, 0], [0, 70, 0, 4, 2, 1, 0, 0, 0], [0, 5, 0, 4, 2, 1, float("nan"), 0, 0]]
    >>> left_out(boxes, scores=[1, 1, 1], labels=[0, 0, 0], lidar2ego=np.eye(4))
    {'not finite': 1, 'beyond the range of their class': 1, 'after the best 500': 0}
    """
    box, label = np.asarray(boxes, dtype=np.float64).reshape(-1, 9), np.asarray(labels, dtype=np.int64).reshape(-1)
    finite = _finite(box, score=np.asarray(scores, dtype=np.float64).reshape(-1))
    in_ego, most = _in_ego(box, sensor=np.asarray(lidar2ego, dtype=np.float64)), rules.max_boxes_per_sample
    near = _near(in_ego, label=label, classes=classes, rules=rules)
    usable = int((finite & near).sum())
    return {
        NOT_FINITE: int((~finite).sum()),
        "beyond the range of their class": int((finite & ~near).sum()),
        f"after the best {most}": max(0, usable - most),
    }


def _in_ego(box: NDArray[np.float64], *, sensor: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gravity centres (n, 3) in the ego frame."""
    centre = box[:, :3] + [0.0, 0.0, 0.5] * box[:, 5:6]
    return np.asarray(centre @ sensor[:3, :3].T + sensor[:3, 3])


def _finite(box: NDArray[np.float64], *, score: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.isfinite(box).all(axis=1) & np.isfinite(score)


def _near(
    in_ego: NDArray[np.float64], *, label: NDArray[np.int64], classes: Sequence[str], rules: Rules
) -> NDArray[np.bool_]:
    return np.asarray(np.linalg.norm(in_ego[:, :2], axis=1) <= class_ranges(classes, rules=rules)[label])


def _global_columns(box: NDArray[np.float64], *, turn: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """Size, rotation and velocity as the format has them, in the frame that ``turn`` leads to."""
    return {
        "size": box[:, [4, 3, 5]],
        "rotation": _global_quaternions(box[:, 6], turn=turn),
        "velocity": (np.pad(box[:, 7:9], ((0, 0), (0, 1))) @ turn.T)[:, :2],
    }


def submission(
    results: Mapping[str, Sequence[dict[str, Any]]], *, use_camera: bool = True, use_lidar: bool = False
) -> dict[str, Any]:
    """The whole submission: entries of ``sample_result`` by sample token, with the sensors used in its meta block."""
    return {
        "meta": META | {"use_camera": use_camera, "use_lidar": use_lidar},
        "results": {token: list(entries) for token, entries in results.items()},
    }


def write_submission(content: Mapping[str, Any], *, path: Path) -> None:
    """Write a submission as JSON, whole or not at all; the same content gives the same bytes."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as stream:
            json.dump(content, stream, allow_nan=False)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _global_quaternions(yaw: NDArray[np.float64], *, turn: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quaternions (n, 4) w, x, y, z of boxes turned by ``yaw`` in lidar, seen in the frame ``turn`` leads to."""
    w, x, y, z = Quaternion(matrix=turn, rtol=1e-4, atol=1e-5).elements
    cos, sin = np.cos(yaw / 2), np.sin(yaw / 2)
    return np.stack([w * cos - z * sin, x * cos + y * sin, y * cos - x * sin, w * sin + z * cos], axis=1)
