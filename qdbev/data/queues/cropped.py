"""Single frames as PETR takes them: images scaled, cut and mirrored before they are normalised, the world turned.

PETR (arXiv 2203.05625) section 4.1, in the order of its official code: boxes are filtered by range, then images are
scaled, cut and mirrored, one draw for all cameras, then the world is turned and scaled about the lidar.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmdet3d.registry import TRANSFORMS
from numpy.typing import NDArray
from PIL import Image

from qdbev.data.queues.temporal import TemporalDataset
from qdbev.data.queues.transforms import (
    LoadMultiView,
    NormalizeMultiView,
    PadMultiView,
    PhotometricDistortionMultiView,
    Results,
)
from qdbev.data.queues.turning import turn_boxes, turn_projection


class CroppedDataset(TemporalDataset):
    """Key frames, each alone; see the module.

    Args:
        samples: Records of ``qdbev.data.nuscenes.records.read_samples``.
        root: Folder of the image paths.
        train: With augmentation.
        height_px, width_px: Of the cut.
        pad_divisor, mean, std, to_rgb: As in ``TemporalDataset``.
        image_scale: Least and most factor on images in training, which otherwise just cover the cut.
        flip_probability: Chance that the images of a training item are mirrored.
        rotation_rad: Turn the world of a training item by an angle drawn from +- this.
        world_scale: Least and most factor on it.
        photometric: Distort colours in training (official: not).
        grid_mask_probability: Chance of GridMask per training item.
        point_cloud_range: As in ``TemporalDataset``.
    """

    def __init__(
        self,
        samples: Sequence[dict[str, Any]],
        *,
        root: Path | str,
        train: bool,
        height_px: int,
        width_px: int,
        pad_divisor: int,
        mean: Sequence[float],
        std: Sequence[float],
        to_rgb: bool,
        point_cloud_range: Sequence[float],
        image_scale: tuple[float, float] = (0.8, 1.0),
        flip_probability: float = 0.5,
        rotation_rad: float = 0.3925,
        world_scale: tuple[float, float] = (0.95, 1.05),
        photometric: bool = False,
        grid_mask_probability: float = 0.7,
    ) -> None:
        super().__init__(
            samples,
            root=root,
            train=train,
            mean=mean,
            std=std,
            to_rgb=to_rgb,
            point_cloud_range=point_cloud_range,
            grid_mask_probability=grid_mask_probability,
        )
        scales, flips = (image_scale, flip_probability) if train else (None, 0.0)
        self._rotation_rad, self._world_scale = rotation_rad, world_scale
        self._pipeline = [
            LoadMultiView(root),
            *([PhotometricDistortionMultiView()] if train and photometric else []),
            CropMultiView(height_px=height_px, width_px=width_px, scales=scales, flip_probability=flips),
            NormalizeMultiView(mean, std, to_rgb),
            PadMultiView(pad_divisor),
        ]

    def arrays(self, index: int, *, generator: np.random.Generator) -> dict[str, Any]:
        """See ``TemporalDataset``; in training the world is turned and scaled behind the filter of ranges."""
        arrays = super().arrays(index, generator=generator)
        if not self.train:
            return arrays
        angle = float(generator.uniform(-self._rotation_rad, self._rotation_rad))
        scale = float(generator.uniform(*self._world_scale))
        arrays["boxes"] = moved_boxes(arrays["boxes"], angle=angle, scale=scale)
        for frame in arrays["frames"]:
            frame["lidar2img"] = moved_projection(frame["lidar2img"], angle=angle, scale=scale).astype(np.float32)
        return arrays


def moved_boxes(boxes: NDArray[Any], *, angle: float, scale: float) -> NDArray[Any]:
    """Boxes (M, 9) turned counter-clockwise, then scaled: places, sizes and velocities.

    >>> moved_boxes(np.array([[1.0, 0, 3, 4, 2, 1, 0.5, 5, 0]]), angle=np.pi / 2, scale=2.0).round(3).tolist()
    [[0.0, 2.0, 6.0, 8.0, 4.0, 2.0, 2.071, 0.0, 10.0]]
    """
    moved = turn_boxes(boxes, angle=angle)
    moved[:, :6] *= scale
    moved[:, 7:9] *= scale
    return moved


def moved_projection(lidar2img: NDArray[Any], *, angle: float, scale: float) -> NDArray[Any]:
    """Projections (N, 4, 4) for points of the moved world."""
    back = np.diag([1 / scale, 1 / scale, 1 / scale, 1.0])
    return np.asarray(turn_projection(lidar2img, angle=angle) @ back)


@TRANSFORMS.register_module()
class CropMultiView(BaseTransform):
    """Scale all images alike, cut ``height_px`` x ``width_px`` out of them, and mirror them or not.

    Pixels become whole numbers first, and Pillow scales (its own filter: bicubic). The cut keeps the bottom. Without
    ``scales`` images are scaled until they cover it, and it is taken from the middle of the width. With them factor and
    place are drawn, and where the image is too small Pillow fills with black: nothing masks that, as officially.
    """

    def __init__(
        self, *, height_px: int, width_px: int, scales: tuple[float, float] | None = None, flip_probability: float = 0.0
    ) -> None:
        self.height_px, self.width_px = height_px, width_px
        self.scales, self.flip_probability = scales, flip_probability

    def transform(self, results: Results) -> Results:
        """Change ``img``, and ``lidar2img`` with it."""
        height, width = results["img"][0].shape[:2]
        scale, left, flip = self._draw(height, width, generator=results["generator"])
        size = (int(width * scale), int(height * scale))
        top = size[1] - self.height_px
        results["img"] = [self._cut(image, size=size, left=left, top=top, flip=flip) for image in results["img"]]
        matrix = pixel_matrix(scale=scale, left=left, top=top, flip=flip, width_px=self.width_px)
        results["lidar2img"] = matrix @ results["lidar2img"]
        return results

    def _draw(self, height: int, width: int, *, generator: np.random.Generator) -> tuple[float, int, bool]:
        if self.scales is None:
            scale = max(self.height_px / height, self.width_px / width)
            return scale, max(0, int(width * scale) - self.width_px) // 2, False
        scale = float(generator.uniform(*self.scales))
        room = max(0, int(width * scale) - self.width_px)
        return scale, int(generator.uniform(0, room)), bool(generator.random() < self.flip_probability)

    def _cut(self, image: NDArray[Any], *, size: tuple[int, int], left: int, top: int, flip: bool) -> NDArray[np.uint8]:
        whole = Image.fromarray(image.astype(np.uint8)).resize(size)
        cut = whole.crop((left, top, left + self.width_px, top + self.height_px))
        return np.asarray(cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else cut)


def pixel_matrix(*, scale: float, left: int, top: int, flip: bool, width_px: int) -> NDArray[np.float64]:
    """(4, 4) what scaling, cutting and mirroring do to homogeneous pixels.

    >>> pixel_matrix(scale=0.5, left=3, top=2, flip=True, width_px=10)[:2].tolist()
    [[-0.5, 0.0, 13.0, 0.0], [0.0, 0.5, -2.0, 0.0]]
    """
    matrix = np.diag([scale, scale, 1.0, 1.0])
    matrix[:2, 2] = -left, -top
    if flip:
        mirror = np.diag([-1.0, 1.0, 1.0, 1.0])
        mirror[0, 2] = width_px
        matrix = mirror @ matrix
    return matrix
