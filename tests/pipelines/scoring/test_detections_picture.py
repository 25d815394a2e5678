"""The picture of detections: which key frame, whose boxes, and no picture where cameras are others than nuScenes'."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from pipelines.assembly.samples import Split
from pipelines.lineage.kinds import SUBMISSION
from pipelines.scoring.detections_picture import WIDTH_PX, detections_jpg, fullest
from qdbev.data.nuscenes.records import read_samples
from qdbev.data.queues.temporal import valid_boxes
from qdbev.evaluation.submission import sample_result
from qdbev.reporting.charts.figure import BLUE, ORANGE


@pytest.fixture(scope="module")
def split(tiny_synthetic: Path) -> Split:
    samples = read_samples(tiny_synthetic, version="v1.0-trainval", scenes=["scene-0003"])
    return Split(tiny_synthetic, "v1.0-trainval", samples, "d")


def link(folder: Path, *, bits: str, results: dict[str, Any]) -> Any:
    folder.mkdir()
    (folder / SUBMISSION).write_text(json.dumps({"results": results}))
    manifest = SimpleNamespace(files=[SUBMISSION])
    return SimpleNamespace(bits=bits, evaluation=SimpleNamespace(file=lambda name: folder / name, manifest=manifest))


def pixels_of(picture: bytes, colour: str) -> int:
    image = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    assert image.shape[1] == WIDTH_PX
    near = np.abs(image - np.array(to_rgb(colour))[::-1] * 255).max(axis=-1) < 40
    return int(near[image.shape[0] // 2 :].sum())  # the views from above


def test_the_frame_with_most_boxes_is_drawn_with_the_boxes_of_both_submissions(split: Split, tmp_path: Path) -> None:
    sample = fullest(split)
    counts = [int(one["instances"]["bbox_3d_isvalid"].sum()) for one in split.samples]
    assert counts[split.samples.index(sample)] == max(counts)
    boxes, labels = valid_boxes(sample)
    seen = sample_result(
        boxes.tensor.numpy(),
        scores=np.full(len(labels), 0.9),
        labels=labels,
        token=sample["token"],
        lidar2ego=sample["lidar2ego"],
        ego2global=sample["ego2global"],
    )
    truth = link(tmp_path / "truth", bits="W32A32", results={sample["token"]: seen})
    blind = link(tmp_path / "blind", bits="W4A6", results={sample["token"]: []})
    picture = detections_jpg(truth, blind, split=split)
    assert picture is not None and len(picture) < 300_000
    assert pixels_of(picture, BLUE) > 5 * pixels_of(picture, ORANGE)
    other = detections_jpg(blind, truth, split=split)
    assert other is not None and pixels_of(other, ORANGE) > 5 * pixels_of(other, BLUE)


def test_other_cameras_than_those_of_nuscenes_have_no_picture(split: Split) -> None:
    sample = fullest(split)
    front = {name: image for name, image in sample["images"].items() if name == "CAM_FRONT"}
    nothing: Any = None
    assert detections_jpg(nothing, nothing, split=Split(split.root, "v", [{**sample, "images": front}], "")) is None
