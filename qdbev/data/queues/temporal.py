"""Temporal data set: queues of frames for training, streams of frames for evaluation, in the official BEVFormer's way.

Item: {"inputs": {"img": float32 (T, N, 3, H, W)}, "data_samples": Det3DDataSample}, T frames with the current one
last, N cameras in the order of ``qdbev.data.nuscenes.layout.CAMERAS``. ``metainfo["frames"]`` holds one dict per frame
(token, scene, index_in_scene, timestamp in microseconds, lidar2img (N, 4, 4) scaled to the network input, can_bus
(18,), prev_exists, img_shape, valid_shape before padding); ``gt_instances_3d`` belongs to the current frame. can_bus
entries 0:3 and 17 are differences to the frame before in the queue (in a stream: to the scene's key frame before), and
zero where there is none; 16 stays absolute.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet3d.datasets.transforms import ObjectRangeFilter
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.structures import InstanceData
from numpy.typing import NDArray
from torch.utils.data import Dataset, default_collate

from qdbev.data.geometry import lidar_to_image
from qdbev.data.queues.transforms import (
    GridMaskMultiView,
    LoadMultiView,
    NormalizeMultiView,
    PadMultiView,
    PhotometricDistortionMultiView,
    ScaleMultiView,
)
from qdbev.data.queues.turning import turn_boxes, turn_can_bus, turn_projection

Item = dict[str, Any]
_UNWRAPPED = [0, 1, 2, 17]  # entries that become differences; degrees are not wrapped, as in the official code


class TemporalDataset(Dataset[Item]):
    """Key frames as items; ``samples`` are those of ``read_samples`` and may hold whole scenes in any order of scenes.

    Training (``train=True``): T = ``queue_length`` frames; of the T frames before the current one, one is dropped at
    random (``drop_one``), indices are clamped at 0, and a frame after one of another scene starts anew (prev_exists
    False). Photometric distortion on all frames, GridMask on the current one. Ground truth: valid boxes (lidar plus
    radar points above zero) whose centre is inside ``point_cloud_range`` in x and y; NaN velocities become 0. An item
    may have no box at all (the official code draws another index instead): detectors must take empty ground truth.
    Evaluation (``train=False``): T = 1, no augmentation, the same ground truth.

    Args:
        samples: Records of ``qdbev.data.nuscenes.records.read_samples``.
        root: Folder of the image paths.
        train: Queues with augmentation, or single frames.
        queue_length: T of training.
        mean, std, to_rgb: Normalisation, in the order of the network's channels.
        scale: Factor from file size to network size, before padding.
        pad_divisor: Network height and width are multiples of it.
        point_cloud_range: Metres (x, y, z low, x, y, z high) in the lidar frame.
        photometric: Distort colours in training.
        grid_mask_probability: Chance of GridMask per training item (official 0.7).
        bev_rotation_rad: Turn the lidar frame of a training item by an angle drawn from +- this (official 0).
        drop_one: Drop one of the T frames before at random; otherwise the T - 1 nearest are taken.
    """

    def __init__(
        self,
        samples: Sequence[dict[str, Any]],
        *,
        root: Path | str,
        train: bool,
        mean: Sequence[float],
        std: Sequence[float],
        to_rgb: bool,
        queue_length: int = 1,
        scale: float = 1.0,
        pad_divisor: int = 32,
        point_cloud_range: Sequence[float] = (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0),
        photometric: bool = True,
        grid_mask_probability: float = 0.7,
        bev_rotation_rad: float = 0.0,
        drop_one: bool = True,
    ) -> None:
        if queue_length < 1:
            raise ValueError(f"queue_length counts the current frame too and must be at least 1, got {queue_length}.")
        self.samples = list(samples)
        self.train = train
        self.queue_length = queue_length if train else 1
        self.drop_one = drop_one
        self.bev_rotation_rad = bev_rotation_rad if train else 0.0
        self._pipeline: list[BaseTransform] = [
            LoadMultiView(root),
            *([PhotometricDistortionMultiView()] if train and photometric else []),
            NormalizeMultiView(mean, std, to_rgb),
            ScaleMultiView(scale),
            PadMultiView(pad_divisor),
        ]
        self._mask = GridMaskMultiView(grid_mask_probability) if train and grid_mask_probability > 0 else None
        self._range = ObjectRangeFilter(list(point_cloud_range))
        self._motions = stream_motions(self.samples)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Item:
        return self.item(index, generator=np.random.default_rng([index]))

    def item(self, index: int, *, generator: np.random.Generator) -> Item:
        """One item; every random choice in it comes from ``generator``, in a fixed order."""
        arrays = self.arrays(index, generator=generator)
        return {"inputs": {"img": torch.from_numpy(arrays["img"])}, "data_samples": as_data_sample(arrays)}

    @staticmethod
    def packed(items: list[dict[str, Any]]) -> tuple[torch.Tensor, list[dict[str, Any]]]:
        """Items as a loading process sends them: images as one tensor, which costs one file descriptor."""
        return default_collate([item.pop("img") for item in items]), items

    @staticmethod
    def batch(sent: tuple[torch.Tensor, list[dict[str, Any]]]) -> dict[str, Any]:
        """The batch of what was sent: ``{"inputs": {"img": (B, T, N, 3, H, W)}, "data_samples": [B]}``."""
        images, rest = sent
        return {"inputs": {"img": images}, "data_samples": [as_data_sample(arrays) for arrays in rest]}

    def arrays(self, index: int, *, generator: np.random.Generator) -> dict[str, Any]:
        """The same item as plain arrays, as loading processes send it: img, frames, boxes (M, 9), labels (M,)."""
        if not self.train:
            frames, motions = [index], [self._motions[index]]
        else:
            frames = queue_indices(index, length=self.queue_length, generator=generator if self.drop_one else None)
            motions = queue_motions([self.samples[frame] for frame in frames])
        angle = float(generator.uniform(-1, 1)) * self.bev_rotation_rad if self.bev_rotation_rad else 0.0
        results = [self._frame(frame, generator=generator) for frame in frames]
        if self._mask is not None:
            results[-1] = self._mask(results[-1])
        boxes, labels = valid_boxes(self.samples[index], angle=angle)
        kept = self._range({"gt_bboxes_3d": boxes, "gt_labels_3d": labels})
        return {
            "img": np.stack([result["img"] for result in results]),
            "frames": [
                _meta(self.samples[frame], results=result, motion=motion, angle=angle)
                for frame, result, motion in zip(frames, results, motions, strict=True)
            ],
            "boxes": kept["gt_bboxes_3d"].tensor.numpy(),
            "labels": kept["gt_labels_3d"],
        }

    def _frame(self, index: int, *, generator: np.random.Generator) -> dict[str, Any]:
        images = list(self.samples[index]["images"].values())
        refuse_other_sizes(self.samples[index]["images"])
        results: dict[str, Any] = {
            "img_path": [image["img_path"] for image in images],
            "img_size": [(image["height"], image["width"]) for image in images],
            "lidar2img": lidar_to_image(
                np.stack([image["cam2img"] for image in images]),
                lidar2cam=np.stack([image["lidar2cam"] for image in images]),
            ),
            "generator": generator,
        }
        for transform in self._pipeline:
            results = transform(results)
        return results


def refuse_other_sizes(images: dict[str, dict[str, Any]]) -> None:
    """Refuse cameras of a frame whose images differ in size.

    Raises:
        ValueError: They do; the sentence names two of them.
    """
    sizes = {name: f"{image['width']}x{image['height']}" for name, image in images.items()}
    first, *others = sizes
    if other := next((name for name in others if sizes[name] != sizes[first]), None):
        raise ValueError(
            f"the images of {first} are {sizes[first]} and those of {other} {sizes[other]}; this detector takes one "
            "size: scale the images to one, and camera_intrinsic with them"
        )


def as_data_sample(arrays: dict[str, Any]) -> Det3DDataSample:
    """The Det3DDataSample of ``TemporalDataset.arrays``: metainfo ``frames`` with tensors, ``gt_instances_3d``."""
    frames = [
        frame | {name: torch.from_numpy(frame[name]) for name in ("lidar2img", "can_bus")} for frame in arrays["frames"]
    ]
    sample = Det3DDataSample(metainfo={"frames": frames})
    boxes = LiDARInstance3DBoxes(torch.from_numpy(arrays["boxes"]), box_dim=9)
    sample.gt_instances_3d = InstanceData(bboxes_3d=boxes, labels_3d=torch.from_numpy(arrays["labels"]))
    return sample


def valid_boxes(sample: dict[str, Any], *, angle: float = 0.0) -> tuple[LiDARInstance3DBoxes, NDArray[np.int64]]:
    """Boxes (M, 9) with bottom centres and velocities, and labels (M,), of annotations with at least one point.

    ``angle`` turns them about the lidar's z axis, in radians.
    """
    instances = sample["instances"]
    keep = instances["bbox_3d_isvalid"]
    values = np.concatenate([instances["bbox_3d"], np.nan_to_num(instances["velocity"])], axis=1)[keep]
    values = turn_boxes(values, angle=angle) if angle else values
    boxes = LiDARInstance3DBoxes(
        torch.from_numpy(values.astype(np.float32)).reshape(-1, 9), box_dim=9, origin=(0.5, 0.5, 0.5)
    )
    return boxes, instances["bbox_label_3d"][keep]


def queue_indices(index: int, *, length: int, generator: np.random.Generator | None) -> list[int]:
    """Indices of a training queue, the current one last.

    Candidates are ``index - length`` .. ``index - 1``; the generator drops one (the oldest, where it is None).

    >>> queue_indices(7, length=3, generator=None), queue_indices(1, length=3, generator=None)
    ([5, 6, 7], [0, 0, 1])
    """
    dropped = 0 if generator is None else int(generator.integers(length))
    before = [index - length + place for place in range(length) if place != dropped]
    return [max(0, frame) for frame in before] + [index]


def queue_motions(queue: Sequence[dict[str, Any]]) -> list[tuple[NDArray[np.float32], bool]]:
    """can_bus (18,) with differences to the frame before in the queue, and prev_exists, for each frame of a queue."""
    previous = [None, *queue[:-1]]
    return [_motion(sample, previous=before) for sample, before in zip(queue, previous, strict=True)]


def stream_motions(samples: Sequence[dict[str, Any]]) -> list[tuple[NDArray[np.float32], bool]]:
    """The same for every sample of whole scenes: the frame before is the one with the index in the scene one less."""
    place = {(sample["scene"], sample["index_in_scene"]): sample for sample in samples}
    return [_motion(sample, previous=place.get((sample["scene"], sample["index_in_scene"] - 1))) for sample in samples]


def _motion(sample: dict[str, Any], *, previous: dict[str, Any] | None) -> tuple[NDArray[np.float32], bool]:
    exists = previous is not None and previous["scene"] == sample["scene"]
    can_bus = np.array(sample["can_bus"], dtype=np.float64)
    can_bus[_UNWRAPPED] = can_bus[_UNWRAPPED] - previous["can_bus"][_UNWRAPPED] if exists and previous else 0.0
    return can_bus.astype(np.float32), exists


def _meta(
    sample: dict[str, Any], *, results: dict[str, Any], motion: tuple[NDArray[np.float32], bool], angle: float
) -> dict[str, Any]:
    can_bus, exists = motion
    lidar2img = results["lidar2img"]
    if angle:
        lidar2img, can_bus = turn_projection(lidar2img, angle=angle), turn_can_bus(can_bus, angle=angle)
    return {
        "token": sample["token"],
        "scene": sample["scene"],
        "index_in_scene": sample["index_in_scene"],
        "timestamp": sample["timestamp"],
        "lidar2img": lidar2img.astype(np.float32),
        "can_bus": can_bus.copy(),
        "prev_exists": exists,
        "img_shape": results["img_shape"],
        "valid_shape": results["valid_shape"],
    }
