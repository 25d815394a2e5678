"""One real nuScenes key frame: its boxes in its images, and its lidar points in its boxes, by our projection."""

from __future__ import annotations

import pickle
import runpy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from qdbev.data.geometry import box_corners, lidar_to_image, project_points
from qdbev.data.nuscenes.layout import CAMERAS, CLASSES
from qdbev.data.queues.temporal import TemporalDataset
from qdbev.reporting.drawings.projection import box_segments, project_segments

ROOT = Path(__file__).parents[2]


class _PlainUnpickler(pickle.Unpickler):
    """Dicts, lists, strings, numbers and numpy scalars: a file that names any other class or function is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("numpy.core.multiarray", "scalar"), ("numpy", "dtype"), ("_codecs", "encode")):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} has no place in an info file")


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    found = shared / "real-sample"
    if not found.is_dir():
        pytest.skip("the real nuScenes key frame (shared/real-sample) is not here")
    return found


@pytest.fixture(scope="module")
def info(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("*.pkl")
    with path.open("rb") as stream:
        content = _PlainUnpickler(stream).load()
    (record,) = content["data_list"]
    return record | {"categories": content["metainfo"]["categories"]}


@pytest.fixture(scope="module")
def sample(info: dict[str, Any]) -> dict[str, Any]:
    """The mmdet3d record in the form of ``read_samples``."""
    names = {number: name for name, number in info["categories"].items()}
    boxes = [entry for entry in info["instances"] if entry["bbox_label_3d"] >= 0]
    images = {}
    for camera in CAMERAS:
        entry = info["images"][camera]
        images[camera] = {
            "img_path": entry["img_path"], "width": 1600, "height": 900,
            "cam2img": np.array(entry["cam2img"]), "lidar2cam": np.array(entry["lidar2cam"]),
        }  # fmt: skip
    return {
        "token": info["token"], "scene": "scene-0061", "index_in_scene": 0, "timestamp": int(info["timestamp"] * 1e6),
        "can_bus": np.zeros(18), "images": images,
        "instances": {
            "bbox_3d": np.array([entry["bbox_3d"] for entry in boxes]),
            "velocity": np.array([entry["velocity"] for entry in boxes]),
            "bbox_label_3d": np.array([CLASSES.index(names[entry["bbox_label_3d"]]) for entry in boxes]),
            "num_lidar_pts": np.array([entry["num_lidar_pts"] for entry in boxes]),
            "bbox_3d_isvalid": np.array([entry["bbox_3d_isvalid"] for entry in boxes]),
        },
    }  # fmt: skip


def projections(sample: dict[str, Any]) -> dict[str, np.ndarray]:
    return {
        name: lidar_to_image(image["cam2img"], lidar2cam=image["lidar2cam"]) for name, image in sample["images"].items()
    }


def visible(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    pixels, depth = project_points(points, lidar2img=matrix)
    return (depth > 1) & (pixels >= 0).all(axis=1) & (pixels[:, 0] < 1600) & (pixels[:, 1] < 900)


def test_boxes_land_in_the_cameras_that_annotate_them(sample: dict[str, Any], info: dict[str, Any]) -> None:
    """mmdet3d lists per camera the boxes it sees, with their projected centres: same cameras, same pixels."""
    centres = sample["instances"]["bbox_3d"][:, :3]
    seen, total = 0, 0
    for camera, matrix in projections(sample).items():
        pixels, depth = project_points(centres, lidar2img=matrix)
        for entry in info["cam_instances"][camera]:
            if entry["bbox_label_3d"] < 0:
                continue
            total += 1
            gap = np.linalg.norm(pixels - np.array(entry["center_2d"]), axis=1) + np.abs(depth - entry["depth"])
            seen += bool(gap.min() < 1.0)
    assert total > 60
    assert seen == total


def test_lidar_points_lie_in_the_boxes_as_counted(sample: dict[str, Any], folder: Path) -> None:
    """Points inside a box are those that nuScenes counted, but for a few on the faces."""
    (path,) = folder.glob("*.pcd.bin")
    points = np.fromfile(path, dtype=np.float32).reshape(-1, 5)[:, :3].astype(np.float64)
    found = sample["instances"]
    for box, count in zip(found["bbox_3d"], found["num_lidar_pts"], strict=True):
        cos, sin = np.cos(box[6]), np.sin(box[6])
        local = (points - box[:3]) @ np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
        inside = int((np.abs(local) <= box[3:6] / 2).all(axis=1).sum())
        assert abs(inside - count) <= max(2, 0.1 * count), (inside, count)
    assert found["num_lidar_pts"].max() > 400


def test_a_near_box_lies_whole_in_its_image(sample: dict[str, Any]) -> None:
    """Each box with many points is seen by at least one camera, and none ahead of the car is seen by CAM_BACK."""
    found, matrices = sample["instances"], projections(sample)
    for box, count in zip(found["bbox_3d"], found["num_lidar_pts"], strict=True):
        corners = box_corners(box[None])[0]
        if count > 20:
            assert max(visible(corners, matrix).mean() for matrix in matrices.values()) > 0.7
        if box[1] > 5:
            assert not visible(corners, matrices["CAM_BACK"]).any()


def test_the_network_input_shows_the_same_points(sample: dict[str, Any], folder: Path) -> None:
    """Through the data set at half size: pixels and projections shrink together, boxes become bottom centres."""
    data = TemporalDataset(
        [sample], root=folder, train=False, mean=(0, 0, 0), std=(1, 1, 1), to_rgb=False, scale=0.5, pad_divisor=32
    )
    item = data[0]
    image, (frame,) = item["inputs"]["img"][0], item["data_samples"].metainfo["frames"]
    assert image.shape == (6, 3, 480, 800) and frame["img_shape"] == (480, 800)
    assert not image[:, :, 450:].any()
    raw = cv2.imread(str(folder / sample["images"]["CAM_FRONT"]["img_path"]))
    half = cv2.resize(raw.astype(np.float32), (800, 450)).transpose(2, 0, 1)
    np.testing.assert_allclose(image[0, :, :450], half, atol=1e-3)
    truth = item["data_samples"].gt_instances_3d.bboxes_3d
    kept = sample["instances"]["bbox_3d"][sample["instances"]["bbox_3d_isvalid"]]
    kept = kept[(np.abs(kept[:, :2]) < 51.2).all(axis=1)]
    np.testing.assert_allclose(truth.gravity_center, kept[:, :3], atol=1e-4)
    full = projections(sample)["CAM_FRONT"]
    ours, depth = project_points(kept[:, :3], lidar2img=frame["lidar2img"][0].numpy().astype(np.float64))
    original, _ = project_points(kept[:, :3], lidar2img=full)
    np.testing.assert_allclose(ours[depth > 1], original[depth > 1] / 2, atol=1e-2)


def outlines(boxes: np.ndarray, matrix: np.ndarray) -> list[np.ndarray]:
    """Ends of the lines (m, 2) that are drawn of each box; none where the camera does not see it."""
    bottom = boxes - np.array([0, 0, 0.5, 0, 0, 0, 0]) * boxes[:, 5:6]
    pieces = [
        project_segments(lines, lidar2img=matrix, width_px=1600, height_px=900, margin_px=0.0)
        for lines in box_segments(bottom)
    ]
    return [each.reshape(-1, 2) for each in pieces]


def test_drawn_outlines_fill_the_rectangles_that_mmdet3d_noted(sample: dict[str, Any], info: dict[str, Any]) -> None:
    """Where a box is whole in the image, its outline ends where the noted rectangle does.

    At the image's border the two are cut by different rules (corners outside are left out, or moved to the border).
    """
    boxes, overlaps = sample["instances"]["bbox_3d"], []
    for camera, matrix in projections(sample).items():
        pixels, _ = project_points(boxes[:, :3], lidar2img=matrix)
        drawn = outlines(boxes, matrix)
        for entry in info["cam_instances"][camera]:
            noted = np.array(entry["bbox"])
            if entry["bbox_label_3d"] < 0 or noted.min() < 1 or noted[2] > 1598 or noted[3] > 898:
                continue
            ends = drawn[int(np.linalg.norm(pixels - np.array(entry["center_2d"]), axis=1).argmin())]
            overlaps.append(overlap(np.concatenate([ends.min(axis=0), ends.max(axis=0)]), noted))
    assert len(overlaps) > 60
    assert min(overlaps) > 0.9  # not 1: the record keeps of a box's rotation the yaw alone, the rectangle has all of it


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Shared area of two rectangles (left, top, right, bottom) over their union."""
    sides = np.clip(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0, None)
    areas = [(each[2:] - each[:2]).prod() for each in (one, other)]
    return float(sides.prod() / (sum(areas) - sides.prod()))


def test_lidar_points_of_a_box_fall_into_its_drawn_outline(sample: dict[str, Any], folder: Path) -> None:
    """The points by OpenCV's own projection, the outline by ours; of a box that is whole in the image."""
    (path,) = folder.glob("*.pcd.bin")
    points = np.fromfile(path, dtype=np.float32).reshape(-1, 5)[:, :3].astype(np.float64)
    boxes, checked = sample["instances"]["bbox_3d"], 0
    for camera, matrix in projections(sample).items():
        entry = sample["images"][camera]
        turn, move = entry["lidar2cam"][:3, :3], entry["lidar2cam"][:3, 3]
        for box, ends in zip(boxes, outlines(boxes, matrix), strict=True):
            if not visible(box_corners(box[None])[0], matrix).all():
                continue
            cos, sin = np.cos(box[6]), np.sin(box[6])
            local = (points - box[:3]) @ np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
            inside = points[(np.abs(local) <= box[3:6] / 2).all(axis=1)]
            if len(inside) == 0:
                continue
            pixels, _ = cv2.projectPoints(inside, cv2.Rodrigues(turn)[0], move, entry["cam2img"], None)
            hull = cv2.convexHull(ends.astype(np.float32))
            assert all(cv2.pointPolygonTest(hull, one, True) > -0.5 for one in pixels[:, 0].astype(float).tolist())
            checked += len(inside)
    assert checked > 900


def test_the_picture_in_the_docs_is_what_the_script_draws(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pixel for pixel but for letters, whose shapes follow the machine's fonts; and without photographs."""
    out = tmp_path / "keyframe.png"
    monkeypatch.setattr("sys.argv", ["draw_keyframe.py", str(folder), "--out", str(out)])
    runpy.run_path(str(ROOT / "scripts" / "draw_keyframe.py"), run_name="__main__")
    drawn, kept = (cv2.imread(str(path)) for path in (out, ROOT / "docs" / "images" / "keyframe.png"))
    assert drawn.shape == kept.shape
    assert (np.abs(drawn.astype(int) - kept).max(axis=2) > 40).mean() < 0.01
    assert (kept[50:630] == (250, 248, 246)).all(axis=2).mean() > 0.8  # the sheet, blue first
