"""Detections of one key frame as a picture: ground truth, the float detector and the end of a chain (paper, figure 4).

The frame is chosen by ground truth alone: that with the most boxes that count. Boxes are those of the sealed
submissions, so nothing is predicted again.
"""

from __future__ import annotations

import cv2
import numpy as np

from pipelines.assembly.samples import Split
from pipelines.lineage.chain import Link
from pipelines.scoring.results_file import read_results
from qdbev.data.geometry import Array, invert_rigid, lidar_to_image
from qdbev.data.nuscenes.layout import CAMERAS
from qdbev.data.nuscenes.records import Sample
from qdbev.data.queues.temporal import valid_boxes
from qdbev.evaluation.submission import lidar_boxes
from qdbev.reporting.charts.figure import BLUE, GREEN, ORANGE
from qdbev.reporting.drawings.scene import BoxSource, encode_image, scene_image

MIN_SCORE = 0.3
WIDTH_PX = 1200
JPEG_QUALITY = 80
_COLOURS = (BLUE, ORANGE)


def detections_jpg(first: Link, last: Link, *, split: Split) -> bytes | None:
    """The picture of the fullest key frame; None where the data set has other cameras than nuScenes.

    Args:
        first: The float detector, evaluated on ``split``.
        last: The end of its chain, evaluated on it too.
        split: Where samples and images are.
    """
    sample = fullest(split)
    if tuple(sample["images"]) != CAMERAS:
        return None
    truth, _ = valid_boxes(sample)
    sources = [BoxSource("ground truth", truth.tensor.numpy(), colour=GREEN)]
    for link, name, colour in zip((first, last), ("float", last.bits), _COLOURS, strict=True):
        sources.append(_predicted(link, sample=sample, name=name, colour=colour))
    cameras = list(sample["images"].values())
    picture = scene_image(
        [_read_rgb(str(split.root / camera["img_path"])) for camera in cameras],
        lidar2img=lidar_to_image(
            np.stack([camera["cam2img"] for camera in cameras]),
            lidar2cam=np.stack([camera["lidar2cam"] for camera in cameras]),
        ),
        sources=sources,
        min_score=MIN_SCORE,
        width_px=WIDTH_PX,
        title=f"{sample['scene']}, frame {sample['index_in_scene']}",
    )
    return encode_image(picture, form="jpg", quality=JPEG_QUALITY)


def fullest(split: Split) -> Sample:
    """The sample with the most boxes that count, the first of equals."""
    return max(split.samples, key=lambda sample: int(sample["instances"]["bbox_3d_isvalid"].sum()))


def _predicted(link: Link, *, sample: Sample, name: str, colour: str) -> BoxSource:
    """What a sealed submission says of a sample, in the frame of its LiDAR."""
    assert link.evaluation is not None
    entries = read_results(link.evaluation)["results"].get(sample["token"], [])
    to_lidar: Array = invert_rigid(np.asarray(sample["ego2global"]) @ np.asarray(sample["lidar2ego"]))
    scores = np.array([entry["detection_score"] for entry in entries], dtype=np.float64)
    return BoxSource(name, lidar_boxes(entries, global2lidar=to_lidar), scores=scores, colour=colour)


def _read_rgb(path: str) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION), cv2.COLOR_BGR2RGB)
