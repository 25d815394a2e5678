"""Key frames for detectors that lift images: images cut to one size, and every camera's matrices apart.

Item: {"inputs": {"img": float32 (T, N, 3, H, W)}, "data_samples": Det3DDataSample}, the current frame last, cameras in
the order of the samples. ``metainfo["frames"]`` holds one dict per frame: token, scene, index_in_scene, timestamp in
microseconds, prev_exists, img_shape, and float64 matrices cam2img (N, 3, 3) of the image as taken, image_matrix
(N, 4, 4) from its pixels to those of the network's input, cam2lidar (N, 4, 4), lidar2global, lidar2ego and bev_matrix
(4, 4). ``gt_instances_3d`` belongs to the current frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet3d.datasets.transforms import ObjectRangeFilter
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from mmengine.structures import InstanceData
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset, default_collate

from qdbev.data.nuscenes.records import Sample
from qdbev.data.queues.lidar_depths import (
    crop_corner,
    image_matrix,
    nearest_depths,
    points_to_pixels,
    read_points,
    refuse_missing_points,
)
from qdbev.data.queues.temporal import Item, valid_boxes
from qdbev.data.queues.transforms import LoadMultiView, NormalizeMultiView


class LiftDataset(Dataset[Item]):
    """Key frames as items; ``samples`` are those of ``read_samples`` and may hold whole scenes in any order of scenes.

    Training (``train=True``): with ``frames_back`` T = 2, the past frame so many key frames before the current one, or
    one of 1 to ``frames_back + 1`` drawn at random (``draw_past``); indices are clamped at the start of the scene, and
    a frame that is its own past says so (prev_exists False). No augmentation of images or of the ground.
    Evaluation (``train=False``): T = 1.
    Ground truth: as in ``TemporalDataset``.

    Args:
        samples: Records of ``qdbev.data.nuscenes.records.read_samples``.
        root: Folder of the image paths.
        train: Queues, or single frames.
        size_px: Width and height of the network's input.
        scale: Factor from file size to the size that is cut.
        mean, std, to_rgb: Normalisation, in the order of the network's channels; what lies outside the image is black.
        frames_back: Key frames between the current and the past frame; 0: no past frame.
        draw_past: Draw the past frame of a training item.
        depth_stride: Pixels of the input per pixel that gets the depth of its nearest LiDAR point, as metainfo
            ``depth_m`` (N, H / stride, W / stride), 0 where there is none; of training alone, None: no depths.
        point_cloud_range: Metres (x, y, z low, x, y, z high) in the lidar frame.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        *,
        root: Path | str,
        train: bool,
        size_px: tuple[int, int],
        scale: float,
        mean: Sequence[float],
        std: Sequence[float],
        to_rgb: bool,
        frames_back: int = 0,
        draw_past: bool = False,
        depth_stride: int | None = None,
        point_cloud_range: Sequence[float] = (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0),
    ) -> None:
        self.samples = list(samples)
        self.train, self.size_px, self.scale = train, size_px, scale
        self.frames_back, self.draw_past = frames_back if train else 0, draw_past
        self.depth_stride = depth_stride if train else None
        if self.depth_stride:
            refuse_missing_points(self.samples, root=Path(root))
        self._root, self._load = Path(root), LoadMultiView(root)
        self._normalise = NormalizeMultiView(mean, std, to_rgb)
        self._range = ObjectRangeFilter(list(point_cloud_range))
        self._places = {(sample["scene"], sample["index_in_scene"]): at for at, sample in enumerate(self.samples)}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Item:
        arrays = self.arrays(index, generator=np.random.default_rng([index]))
        return {"inputs": {"img": torch.from_numpy(arrays["img"])}, "data_samples": as_lift_sample(arrays)}

    @staticmethod
    def packed(items: list[dict[str, Any]]) -> tuple[torch.Tensor, list[dict[str, Any]]]:
        """Items as a loading process sends them: images as one tensor, which costs one file descriptor."""
        return default_collate([item.pop("img") for item in items]), items

    @staticmethod
    def batch(sent: tuple[torch.Tensor, list[dict[str, Any]]]) -> dict[str, Any]:
        """The batch of what was sent: ``{"inputs": {"img": (B, T, N, 3, H, W)}, "data_samples": [B]}``."""
        images, rest = sent
        return {"inputs": {"img": images}, "data_samples": [as_lift_sample(arrays) for arrays in rest]}

    def arrays(self, index: int, *, generator: np.random.Generator) -> dict[str, Any]:
        """One item as plain arrays: img, frames, boxes (M, 9), labels (M,)."""
        queue = [self._past(index, generator=generator), index] if self.frames_back else [index]
        boxes, labels = valid_boxes(self.samples[index])
        kept = self._range({"gt_bboxes_3d": boxes, "gt_labels_3d": labels})
        return {
            "img": np.stack([self._image(self.samples[at]) for at in queue]),
            "frames": [self._meta(at, follows=self._follows(at, queue=queue)) for at in queue],
            "boxes": kept["gt_bboxes_3d"].tensor.numpy(),
            "labels": kept["gt_labels_3d"],
        } | ({"depth_m": self._depths(self.samples[index])} if self.depth_stride else {})

    def _depths(self, sample: Sample) -> NDArray[np.float32]:
        points = read_points(self._root / sample["lidar_path"])
        assert self.depth_stride is not None
        return np.stack(
            [
                nearest_depths(
                    points_to_pixels(points, image=image, scale=self.scale, size_px=self.size_px),
                    size_px=self.size_px,
                    stride=self.depth_stride,
                )
                for image in sample["images"].values()
            ]
        )

    def _past(self, index: int, *, generator: np.random.Generator) -> int:
        """Place of the past frame: so many before, or the oldest of the scene on the way there, or the frame itself."""
        sample = self.samples[index]
        back = int(generator.integers(1, self.frames_back + 2)) if self.draw_past else self.frames_back
        past = index
        for step in range(1, back + 1):
            before = self._places.get((sample["scene"], sample["index_in_scene"] - step))
            if before is None:
                break
            past = before
        return past

    def _follows(self, at: int, *, queue: Sequence[int]) -> bool:
        """Of a queue, whether the past is another frame; of a stream, whether the scene has a frame before."""
        if len(queue) > 1:
            return at == queue[-1] and queue[0] != at
        sample = self.samples[at]
        return (sample["scene"], sample["index_in_scene"] - 1) in self._places

    def _image(self, sample: Sample) -> NDArray[np.float32]:
        """(N, 3, H, W)."""
        images = list(sample["images"].values())
        results: dict[str, Any] = {
            "img_path": [image["img_path"] for image in images],
            "img_size": [(image["height"], image["width"]) for image in images],
        }
        results = self._load.transform(results)
        results["img"] = [cropped(image, scale=self.scale, size_px=self.size_px) for image in results["img"]]
        normalised: list[NDArray[np.float32]] = self._normalise.transform(results)["img"]
        return np.stack(normalised).transpose(0, 3, 1, 2)

    def _meta(self, at: int, *, follows: bool) -> dict[str, Any]:
        sample = self.samples[at]
        images = list(sample["images"].values())
        sizes = [(image["width"], image["height"]) for image in images]
        return {
            **{name: sample[name] for name in ("token", "scene", "index_in_scene", "timestamp")},
            "prev_exists": follows,
            "img_shape": self.size_px[::-1],
            "cam2img": np.stack([np.asarray(image["cam2img"], dtype=np.float64) for image in images]),
            "image_matrix": np.stack([image_matrix(size, scale=self.scale, size_px=self.size_px) for size in sizes]),
            "cam2lidar": np.linalg.inv(np.stack([image["lidar2cam"] for image in images]).astype(np.float64)),
            "lidar2global": np.asarray(sample["ego2global"], np.float64) @ np.asarray(sample["lidar2ego"], np.float64),
            "lidar2ego": np.asarray(sample["lidar2ego"], dtype=np.float64),
            "bev_matrix": np.eye(4),
        }


def as_lift_sample(arrays: dict[str, Any]) -> Det3DDataSample:
    """The Det3DDataSample of ``LiftDataset.arrays``."""
    depths = {"depth_m": arrays["depth_m"]} if "depth_m" in arrays else {}
    sample = Det3DDataSample(metainfo={"frames": arrays["frames"]} | depths)
    boxes = LiDARInstance3DBoxes(torch.from_numpy(arrays["boxes"]), box_dim=9)
    sample.gt_instances_3d = InstanceData(bboxes_3d=boxes, labels_3d=torch.from_numpy(arrays["labels"]))
    return sample


def cropped(image: NDArray[Any], *, scale: float, size_px: tuple[int, int]) -> NDArray[Any]:
    """An image (H, W, 3) scaled by Pillow (bicubic) and cut; black outside, as the official codes do both."""
    height, width = image.shape[:2]
    x, y = crop_corner((width, height), scale=scale, size_px=size_px)
    scaled = Image.fromarray(image).resize((int(width * scale), int(height * scale)), Image.Resampling.BICUBIC)
    return np.asarray(scaled.crop((x, y, x + size_px[0], y + size_px[1])))
