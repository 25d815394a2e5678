"""Transforms of one frame of several cameras, in mmdet3d's registry: load, distort, normalise, scale, pad, grid mask.

They work on a ``results`` dict with ``img`` (a list of N images H x W x 3, BGR), ``lidar2img`` (N, 4, 4) and
``generator`` (a numpy Generator: the only source of randomness, so that an item is a pure function of its seed).
Order and numbers follow the official BEVFormer pipeline: normalisation is done BEFORE resizing, padding after both,
hence the padding value 0 is the mean colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmcv.image import imnormalize_
from mmcv.transforms import BaseTransform
from mmdet3d.registry import TRANSFORMS
from numpy.typing import NDArray

from qdbev.data.image_files import NOT_WHOLE, decoded, flaw

Image = NDArray[Any]
Results = dict[str, Any]


@TRANSFORMS.register_module()
class LoadMultiView(BaseTransform):
    """Read the camera files of ``img_path`` (paths relative to ``root``) as BGR uint8 images, pixels as stored.

    Raises:
        ValueError: a file is missing, truncated, not an image, or not of the size the tables give (``img_size``).
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def transform(self, results: Results) -> Results:
        """Put the images into ``img``."""
        sizes = results["img_size"]
        results["img"] = [self._read(path, size=size) for path, size in zip(results["img_path"], sizes, strict=True)]
        return results

    def _read(self, name: str, *, size: tuple[int, int]) -> Image:
        path = self.root / name
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise ValueError(
                f"camera image {path} cannot be read ({error.strerror}); unpack or generate it."
            ) from error
        fault = flaw(raw)
        image = None if fault else decoded(raw)
        if image is None:
            raise ValueError(f"camera image {path} {fault or NOT_WHOLE}; unpack or generate it again.")
        if image.shape[:2] != tuple(size):
            raise ValueError(
                f"camera image {path} is {image.shape[1]}x{image.shape[0]}, but its table says {size[1]}x{size[0]}; "
                "use the images that belong to these tables."
            )
        return image


@TRANSFORMS.register_module()
class PhotometricDistortionMultiView(BaseTransform):
    """mmdet's PhotoMetricDistortion on float images, drawn anew for every camera of every frame.

    Each with probability one half: brightness +- ``brightness_delta``, contrast, saturation, hue +- ``hue_delta``
    degrees, a random order of the channels; contrast comes before or after the change of colour with equal chance.
    As in mmdet values are not clipped to 0..255; unlike there, an image without a draw of saturation and hue skips the
    way through HSV, which changes nothing but pixels that the brightness made negative.
    """

    def __init__(
        self,
        brightness_delta: float = 32.0,
        contrast_range: tuple[float, float] = (0.5, 1.5),
        saturation_range: tuple[float, float] = (0.5, 1.5),
        hue_delta: float = 18.0,
    ) -> None:
        self.brightness_delta = brightness_delta
        self.contrast_range = contrast_range
        self.saturation_range = saturation_range
        self.hue_delta = hue_delta

    def transform(self, results: Results) -> Results:
        """Distort each image with its own draw."""
        generator = results["generator"]
        results["img"] = [distort(image, **self.draw(generator)) for image in results["img"]]
        return results

    def draw(self, generator: np.random.Generator) -> dict[str, Any]:
        """Arguments of ``distort`` for one image; always the same number of draws from the generator."""
        on = generator.random(6) < 0.5
        values = generator.random(4)
        low, high = self.contrast_range
        least, most = self.saturation_range
        order = generator.permutation(3)
        return {
            "brightness": float((2 * values[0] - 1) * self.brightness_delta) if on[0] else 0.0,
            "contrast": float(low + (high - low) * values[1]) if on[1] else 1.0,
            "saturation": float(least + (most - least) * values[2]) if on[2] else None,
            "hue": float((2 * values[3] - 1) * self.hue_delta) if on[3] else None,
            "contrast_first": bool(on[4]),
            "order": tuple(int(channel) for channel in order) if on[5] else (0, 1, 2),
        }


def distort(
    image: Image,
    *,
    brightness: float,
    contrast: float,
    saturation: float | None,
    hue: float | None,
    contrast_first: bool,
    order: tuple[int, int, int],
) -> NDArray[np.float32]:
    """One BGR image with the given change of light and colour, as float32.

    Args:
        image: (H, W, 3) BGR, 0..255.
        brightness: Added to all values.
        contrast: Factor on all values.
        saturation: Factor on the S of HSV; None: S and H stay.
        hue: Degrees added to the H of HSV; None likewise.
        contrast_first: Apply the contrast before the change of colour.
        order: Order of the output channels.
    """
    out = image.astype(np.float32)
    if brightness:
        out += np.float32(brightness)
    if contrast_first and contrast != 1.0:
        out *= np.float32(contrast)
    if saturation is not None or hue is not None:
        out = _recolour(out, saturation=saturation, hue=hue)
    if not contrast_first and contrast != 1.0:
        out *= np.float32(contrast)
    if order == (0, 1, 2):
        return out
    return np.asarray(cv2.merge([out[..., channel] for channel in order]), dtype=np.float32)


def _recolour(image: NDArray[np.float32], *, saturation: float | None, hue: float | None) -> NDArray[np.float32]:
    planes: list[NDArray[Any]] = list(cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2HSV)))
    if saturation is not None:
        planes[1] *= np.float32(saturation)
        if saturation > 1:
            np.clip(planes[1], 0, 1, out=planes[1])
    if hue is not None:
        planes[0] += np.float32(hue)
        planes[0] -= np.float32(360) * (planes[0] > 360)
        planes[0] += np.float32(360) * (planes[0] < 0)
    return np.asarray(cv2.cvtColor(cv2.merge(planes), cv2.COLOR_HSV2BGR), dtype=np.float32)


@TRANSFORMS.register_module()
class NormalizeMultiView(BaseTransform):
    """(image - mean) / std per channel in float32; ``mean`` and ``std`` are in the order AFTER ``to_rgb``."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], to_rgb: bool) -> None:
        if min(std) <= 0:
            raise ValueError(f"normalisation std must be positive, got {tuple(std)}; give the std of the weights used.")
        self.mean = np.asarray(mean, dtype=np.float64)
        self.std = np.asarray(std, dtype=np.float64)
        self.to_rgb = to_rgb

    def transform(self, results: Results) -> Results:
        """Normalise all images."""
        results["img"] = [
            imnormalize_(image.astype(np.float32), self.mean, self.std, self.to_rgb) for image in results["img"]
        ]
        return results


@TRANSFORMS.register_module()
class ScaleMultiView(BaseTransform):
    """Resize (bilinear) to int(side * scale) and scale the projections by exactly ``scale``, as the official does."""

    def __init__(self, scale: float) -> None:
        if scale <= 0:
            raise ValueError(f"image scale must be positive, got {scale}.")
        self.scale = scale

    def transform(self, results: Results) -> Results:
        """Resize all images and scale ``lidar2img``."""
        if self.scale == 1.0:
            return results
        results["img"] = [self._resize(image) for image in results["img"]]
        results["lidar2img"] = np.diag([self.scale, self.scale, 1.0, 1.0]) @ results["lidar2img"]
        return results

    def _resize(self, image: Image) -> Image:
        height, width = image.shape[:2]
        size = (int(width * self.scale), int(height * self.scale))
        return cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)


@TRANSFORMS.register_module()
class PadMultiView(BaseTransform):
    """Pad right and bottom with 0 to a multiple of ``divisor`` and stack into ``img`` float32 (N, 3, H, W)."""

    def __init__(self, divisor: int) -> None:
        self.divisor = divisor

    def transform(self, results: Results) -> Results:
        """Pad, stack, and set ``img_shape`` (H, W) and ``valid_shape``, what it was before."""
        height, width = (max(image.shape[axis] for image in results["img"]) for axis in (0, 1))
        shape = tuple(-(-side // self.divisor) * self.divisor for side in (height, width))
        stacked = np.zeros((len(results["img"]), 3, *shape), dtype=np.float32)
        for target, image in zip(stacked, results["img"], strict=True):
            target[:, : image.shape[0], : image.shape[1]] = image.transpose(2, 0, 1)
        results["img"], results["img_shape"], results["valid_shape"] = stacked, shape, (height, width)
        return results


@TRANSFORMS.register_module()
class GridMaskMultiView(BaseTransform):
    """GridMask (arXiv:2001.04086) with BEVFormer's settings: one mask for all images of a frame, squares set to 0.

    With probability ``probability``: period d uniform in [2, H), stripes of ``ratio`` * d rows and columns at random
    offsets; what lies outside both the row and the column stripes is dropped. The official code lets the training
    forward pass do it, on the current frame only; here it is part of the item, so that its seed decides.
    """

    def __init__(self, probability: float = 0.7, ratio: float = 0.5) -> None:
        self.probability = probability
        self.ratio = ratio

    def transform(self, results: Results) -> Results:
        """Mask all images of the frame alike, or none."""
        generator, (height, width) = results["generator"], results["img"].shape[-2:]
        if generator.random() < self.probability:
            period = int(generator.integers(2, height))
            offsets = generator.integers(0, period, size=2)
            mask = grid_mask(
                (height, width), period=period, ratio=self.ratio, offsets=(int(offsets[0]), int(offsets[1]))
            )
            results["img"] *= mask
        return results


def grid_mask(size: tuple[int, int], *, period: int, ratio: float, offsets: tuple[int, int]) -> NDArray[np.float32]:
    """Mask (H, W) of 1 and 0: 1 in row stripes or column stripes, 0 in the squares between.

    The stripes are laid on a canvas of 1.5 times the size, of which the centre is cut out.

    >>> grid_mask((4, 4), period=2, ratio=0.5, offsets=(0, 1)).astype(int).tolist()
    [[1, 0, 1, 0], [1, 1, 1, 1], [1, 0, 1, 0], [1, 1, 1, 1]]
    """
    length = min(max(int(period * ratio + 0.5), 1), period - 1)
    rows, columns = (
        _stripes(side, period=period, length=length, offset=at) for side, at in zip(size, offsets, strict=True)
    )
    return (rows[:, None] | columns[None, :]).astype(np.float32)


def _stripes(side: int, *, period: int, length: int, offset: int) -> NDArray[np.bool_]:
    canvas = int(1.5 * side)
    place = np.arange(canvas) - offset
    inside = (place >= 0) & (place // period < canvas // period) & (place % period < length)
    start = (canvas - side) // 2
    return inside[start : start + side]
