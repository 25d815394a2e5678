"""One key frame as mmdet3d's info, which its transforms read: ``qdbev.data.nuscenes.records`` in other words.

Boxes of a frame are in the LIDAR_TOP frame. Boxes of a camera (``cam_instances``) are in that camera's frame (x right,
y down, z forward): gravity centre, then length, height, width, then yaw about y, zero along x and positive towards -z;
velocity is along x and z. With them go the rectangle (x1, y1, x2, y2) that the box covers in the image, the image
point of its centre, and the centre's depth, which camera detectors learn from.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qdbev.data.nuscenes.layout import CLASSES
from qdbev.data.nuscenes.records import Sample

Array = NDArray[np.float64]
ATTRIBUTES = (
    "cycle.with_rider", "cycle.without_rider", "pedestrian.moving", "pedestrian.standing",
    "pedestrian.sitting_lying_down", "vehicle.moving", "vehicle.parked", "vehicle.stopped",
)  # fmt: skip
NO_ATTRIBUTE = len(ATTRIBUTES)  # mmdet3d's number for it
_NEAREST_M = 0.1  # corners nearer to the image plane, or behind it, are left out of the rectangle


def frame_info(sample: Sample, *, root: Path, index: int, classes: Sequence[str]) -> dict[str, Any]:
    """The info of a key frame.

    Args:
        sample: A record of ``read_samples``.
        root: Folder of its paths, which become absolute.
        index: Becomes ``sample_idx``.
        classes: Class names in the order in which the data set numbers labels.
    """
    rows = _rows(sample["instances"], classes=classes)
    pose = np.asarray(sample["ego2global"]).tolist()
    return {
        "sample_idx": index,
        "token": sample["token"],
        "timestamp": sample["timestamp"] / 1e6,
        "ego2global": pose,
        "lidar_points": {
            "lidar_path": str(root / sample["lidar_path"]),
            "num_pts_feats": 5,
            "lidar2ego": np.asarray(sample["lidar2ego"]).tolist(),
        },
        "images": {name: _image(image, root=root) for name, image in sample["images"].items()},
        "instances": rows,
        "cam_instances": {name: camera_instances(rows, image=image) for name, image in sample["images"].items()},
    }


def _image(image: dict[str, Any], *, root: Path) -> dict[str, Any]:
    cam2img, lidar2cam = np.asarray(image["cam2img"]), np.asarray(image["lidar2cam"])
    return {
        "img_path": str(root / image["img_path"]),
        "cam2img": cam2img.tolist(),
        "lidar2cam": lidar2cam.tolist(),
        "lidar2img": (_square(cam2img) @ lidar2cam).tolist(),
        "height": image["height"],
        "width": image["width"],
        "timestamp": image["timestamp"] / 1e6,
    }


def _rows(instances: dict[str, Any], *, classes: Sequence[str]) -> list[dict[str, Any]]:
    """The columns as one dict per box, labels in the order of ``classes``."""
    names = [CLASSES[label] for label in instances["bbox_label_3d"]]
    return [
        {
            "bbox_3d": instances["bbox_3d"][row].tolist(),
            "bbox_label_3d": classes.index(name) if name in classes else -1,
            "bbox_label": classes.index(name) if name in classes else -1,
            "velocity": instances["velocity"][row].tolist(),
            "num_lidar_pts": int(instances["num_lidar_pts"][row]),
            "num_radar_pts": int(instances["num_radar_pts"][row]),
            "bbox_3d_isvalid": bool(instances["bbox_3d_isvalid"][row]),
            "attr_label": _attribute(instances["attribute"][row]),
        }
        for row, name in enumerate(names)
    ]


def _attribute(name: str) -> int:
    return ATTRIBUTES.index(name) if name in ATTRIBUTES else NO_ATTRIBUTE


def camera_instances(rows: Sequence[dict[str, Any]], *, image: dict[str, Any]) -> list[dict[str, Any]]:
    """The boxes that one camera sees, in its frame; those with their centre behind it or wholly outside are left out.

    Args:
        rows: ``instances`` of a frame.
        image: The record's entry of the camera.
    """
    cam2img, lidar2cam = np.asarray(image["cam2img"])[:3, :3], np.asarray(image["lidar2cam"])
    seen = []
    for row in rows:
        box = camera_box(np.asarray(row["bbox_3d"]), lidar2cam=lidar2cam)
        rectangle = _rectangle(box_corners(box), cam2img=cam2img, width=image["width"], height=image["height"])
        if box[2] <= 0 or rectangle is None:
            continue
        velocity = lidar2cam[:3, :3] @ [*row["velocity"], 0.0]
        point = cam2img @ box[:3]
        seen.append(
            row
            | {
                "bbox_3d": box.tolist(),
                "velocity": [velocity[0], velocity[2]],
                "bbox": rectangle,
                "center_2d": (point[:2] / point[2]).tolist(),
                "depth": float(box[2]),
            }
        )
    return seen


def camera_box(box: Array, *, lidar2cam: Array) -> Array:
    """A box (7,) x, y, z, length, width, height, yaw of the lidar's frame as x, y, z, l, h, w, yaw of a camera's.

    A camera that looks along the lidar's x axis has its x to the lidar's right (-y) and its z along x:

    >>> rotation = [[0, -1, 0, 0], [0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
    >>> box = np.array([10.0, 2.0, -1.0, 4.0, 2.0, 1.5, 0.0])
    >>> camera_box(box, lidar2cam=np.array(rotation, dtype=float)).round(3).tolist()
    [-2.0, 1.0, 10.0, 4.0, 1.5, 2.0, -1.571]
    """
    centre = lidar2cam[:3, :3] @ box[:3] + lidar2cam[:3, 3]
    along = lidar2cam[:3, :3] @ [np.cos(box[6]), np.sin(box[6]), 0.0]
    return np.array([*centre, box[3], box[5], box[4], -np.arctan2(along[2], along[0])])


def box_corners(box: Array) -> Array:
    """Corners (8, 3) of a box (7,) of ``camera_box``."""
    cos, sin = np.cos(box[6]), np.sin(box[6])
    axes = np.array([[cos, 0.0, -sin], [0.0, 1.0, 0.0], [sin, 0.0, cos]])  # rows: along length, height, width
    signs = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
    return np.asarray(box[:3] + (signs * box[3:6]) @ axes)


def _rectangle(corners: Array, *, cam2img: Array, width: int, height: int) -> list[float] | None:
    """The image rectangle over the projected corners in front of the camera, cut to the image; None: not in it."""
    front = corners[corners[:, 2] > _NEAREST_M]
    if not len(front):
        return None
    points = front @ cam2img.T
    points = points[:, :2] / points[:, 2:]
    low, high = np.clip(points.min(0), 0, [width, height]), np.clip(points.max(0), 0, [width, height])
    return [*low.tolist(), *high.tolist()] if (high - low).min() > 0 else None


def _square(cam2img: Array) -> Array:
    square = np.eye(4)
    square[:3, :3] = cam2img[:3, :3]
    return square
