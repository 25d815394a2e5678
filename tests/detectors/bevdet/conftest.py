"""A very small BEVDet, and batches for it on the ring of cameras."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from mmdet3d.structures import Det3DDataSample
from mmengine.structures import InstanceData

from qdbev.detectors.bevdet import BEVDet, build_bevdet
from tests.detectors.conftest import random_boxes, ring_of_cameras

CONSTANTS = {"dx", "bx", "nx", "frustum", "voxel_size", "voxel_coord"}
SIZE = (32, 64)  # height, width
MITE = {
    "image_px": SIZE,
    "backbone_depth": 18,
    "backbone_base_channels": 8,
    "backbone_with_checkpointing": False,
    "image_channels": 16,
    "depths_m": (1.0, 9.0, 2.0),
    "channels": 4,
    "rows": 16,
    "columns": 16,
    "cell_m": 1.5,
    "low_m": (-12.0, -12.0, -5.0),
    "height_m": 8.0,
    "bev_channels": (8, 8, 8),
    "neck_channels": 8,
    "head_channels": 8,
    "code_weights": (1.0,) * 10,
}


def steady(model: torch.nn.Module) -> torch.nn.Module:
    """Weights that are a function of their place, so that they are the same wherever torch draws numbers otherwise."""
    for number, (name, value) in enumerate(model.state_dict().items()):
        if not value.is_floating_point() or name.rpartition(".")[2] in CONSTANTS:
            continue
        places = torch.arange(value.numel(), dtype=torch.float64) * 12.9898 + number * 78.233
        wave = ((places.sin() * 43758.5453) % 1 * 2 - 1).view_as(value)
        spread = (3.0 / max(value[0].numel(), 1)) ** 0.5 if value.dim() > 1 else 0.1
        positive = name.endswith("running_var") or (value.dim() == 1 and name.endswith("weight"))
        value.copy_(1 + 0.2 * wave if positive else spread * wave)
    return model


@pytest.fixture
def make_bevdet() -> Callable[..., BEVDet]:
    def make(frames_back: int = 2, **changes: Any) -> BEVDet:
        model = build_bevdet(**(MITE | {"frames_back": frames_back} | changes))
        return steady(model)  # type: ignore[return-value]

    return make


def frame(*, scene: str, index: int, follows: bool, size: tuple[int, int] = SIZE) -> dict[str, Any]:
    """A vehicle that drives a metre along y and turns 0.1 rad from frame to frame."""
    pose = torch.eye(4, dtype=torch.float64)
    angle = torch.tensor(0.1 * index, dtype=torch.float64)
    pose[:2, :2] = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    pose[1, 3] = float(index)
    return {
        "token": f"{scene}-{index}",
        "img_shape": size,
        "scene": scene,
        "index_in_scene": index,
        "timestamp": 500_000 * index,
        "prev_exists": follows,
        "cam2img": torch.eye(3, dtype=torch.float64).expand(6, 3, 3),
        "image_matrix": torch.eye(4, dtype=torch.float64).expand(6, 4, 4),
        "cam2lidar": ring_of_cameras(*size).double().inverse(),
        "bev_matrix": torch.eye(4, dtype=torch.float64),
        "lidar2global": pose,
        "lidar2ego": torch.eye(4, dtype=torch.float64),
    }


def make_batch(*queues: list[dict[str, Any]], seed: int = 0, objects: int = 4) -> tuple[dict[str, Any], list[Any]]:
    """One sample per queue of frames; images and boxes follow from the scene and the index."""
    images, samples = [], []
    for frames in queues:
        drawn = []
        for one in frames:
            generator = torch.Generator().manual_seed(seed + 100 * one["index_in_scene"] + ord(one["scene"][0]))
            drawn.append(torch.randn(6, 3, *one["img_shape"], generator=generator))
        images.append(torch.stack(drawn))
        sample = Det3DDataSample(metainfo={"frames": frames})
        boxes = random_boxes(objects, generator)
        boxes.tensor[:, :2] /= 3
        labels = torch.randint(0, 10, (objects,), generator=generator)
        sample.gt_instances_3d = InstanceData(bboxes_3d=boxes, labels_3d=labels)
        samples.append(sample)
    return {"img": torch.stack(images)}, samples
