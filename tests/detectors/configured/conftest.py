"""FCOS3D of the examples and a key frame of two cameras as its config would pack it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet3d.structures import CameraInstance3DBoxes, Det3DDataSample

from qdbev.data.configured.config import read_config
from qdbev.detectors.configured import ConfiguredDetector, build_configured

CONFIG = Path(__file__).parents[3] / "docs" / "examples" / "fcos3d_config.py"
IMAGE_PX = (64, 96)
KeyFrame = tuple[dict[str, Any], list[Det3DDataSample]]


def key_frame(seed: int, *, image_px: tuple[int, int] = IMAGE_PX) -> KeyFrame:
    """Images of noise, and what FCOS3D is told of its cameras."""
    height, width = image_px
    generator = torch.Generator().manual_seed(seed)
    images = [torch.randint(0, 256, (3, *image_px), generator=generator, dtype=torch.uint8) for _ in range(2)]
    cam2img = [[50.0, 0, width / 2, 0], [0, 50, height / 2, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    told = {
        "token": str(seed),
        "cam2img": cam2img,
        "lidar2cam": np.eye(4),
        "img_shape": image_px,
        "scale_factor": (1, 1),
    }
    samples = [Det3DDataSample(metainfo=told | {"box_type_3d": CameraInstance3DBoxes}) for _ in images]
    return {"img": images}, samples


def fcos3d(**changed: Any) -> ConfiguredDetector:
    """The example with other sections of its model; parts are backbone, neck and decoder."""
    model = copy.deepcopy(read_config(CONFIG, options={})["model"]) | changed
    parts = {"backbone": ["backbone"], "neck": ["neck"], "decoder": ["bbox_head"]}
    torch.manual_seed(0)
    detector = build_configured(model, parts=parts)
    detector.eval()
    return detector
