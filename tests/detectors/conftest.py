"""A ring of six cameras, a very small BEVFormer and random batches for it."""

from __future__ import annotations

import math
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.structures import InstanceData

from qdbev.detectors.bevformer import BEVFormer, build_bevformer

Batch = tuple[dict[str, torch.Tensor], list[Det3DDataSample]]
SIZE = (64, 96)  # height, width


@pytest.fixture(scope="session")
def variants() -> dict[str, dict[str, Any]]:
    return runpy.run_path(str(Path(__file__).parent / "bevformer" / "variants.py"))["VARIANTS"]


@pytest.fixture(scope="session")
def mite(variants: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Numbers of a BEVFormer that runs in milliseconds."""
    return variants["nano"] | {
        "backbone_base_channels": 8,
        "neck_in_channels": (16, 32),
        "channels": 16,
        "heads": 2,
        "hidden": 24,
        "bev_rows": 8,
        "bev_columns": 10,
        "queries": 12,
        "decoder_layers": 2,
    }


@pytest.fixture
def make_model(mite: dict[str, Any]) -> Callable[..., BEVFormer]:
    def make(**changes: Any) -> BEVFormer:
        torch.manual_seed(0)
        model = build_bevformer(**(mite | changes))
        # offsets and weights that depend on the query, so that nothing is equal by symmetry
        for name, parameter in model.named_parameters():
            if "sampling_offsets.weight" in name or "attention_weights.weight" in name:
                torch.nn.init.normal_(parameter, std=0.5)
        return model

    return make


def ring_of_cameras(height: int, width: int) -> torch.Tensor:
    """(6, 4, 4) LiDAR metres to pixels: cameras at the origin, 60 degrees apart, x right and y forward."""
    matrices = []
    for camera in range(6):
        yaw = math.pi / 2 - camera * math.pi / 3  # looking direction, counter-clockwise from x
        right = (math.sin(yaw), -math.cos(yaw), 0.0)
        ahead = (math.cos(yaw), math.sin(yaw), 0.0)
        focal, u, v = 0.8 * width, width / 2, height / 2
        rows = [
            [focal * r + u * a for r, a in zip(right, ahead, strict=True)] + [0.0],
            [v * a + focal * d for a, d in zip(ahead, (0.0, 0.0, -1.0), strict=True)] + [0.0],
            [*ahead, 0.0],
            [0.0, 0.0, 0.0, 1.0],
        ]
        matrices.append(torch.tensor(rows))
    return torch.stack(matrices)


def random_boxes(count: int, generator: torch.Generator) -> LiDARInstance3DBoxes:
    place = torch.rand(count, 2, generator=generator) * 60 - 30
    bottom = torch.full((count, 1), -1.8)
    size = torch.rand(count, 3, generator=generator) * 3 + 1
    yaw = torch.rand(count, 1, generator=generator) * 6 - 3
    velocity = torch.randn(count, 2, generator=generator)
    return LiDARInstance3DBoxes(torch.cat([place, bottom, size, yaw, velocity], 1), box_dim=9)


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    def make(*, follows: list[list[bool]], objects: int = 5, seed: int = 0, first_index: int = 0) -> Batch:
        """One sample per row of ``follows``, which says for each frame whether it follows the one before."""
        generator = torch.Generator().manual_seed(seed)
        height, width = SIZE
        images = torch.randn(len(follows), len(follows[0]), 6, 3, height, width, generator=generator)
        samples = []
        for number, row in enumerate(follows):
            frames = []
            for step, follows_last in enumerate(row):
                can_bus = torch.randn(18, generator=generator)
                can_bus[17] = 10 * can_bus[17]
                can_bus[[0, 1, 2, 17]] *= float(follows_last)
                frames.append(
                    {
                        "token": f"{number}-{step}",
                        "scene": f"scene-{number}",
                        "index_in_scene": first_index + step,
                        "timestamp": 500_000 * step,
                        "lidar2img": ring_of_cameras(height, width),
                        "can_bus": can_bus,
                        "prev_exists": follows_last,
                        "img_shape": (height, width),
                    }
                )
            sample = Det3DDataSample()
            sample.set_metainfo({"frames": frames})
            labels = torch.randint(0, 10, (objects,), generator=generator)
            sample.gt_instances_3d = InstanceData(bboxes_3d=random_boxes(objects, generator), labels_3d=labels)
            samples.append(sample)
        return {"img": images}, samples

    return make
