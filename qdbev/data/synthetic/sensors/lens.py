"""From light to a camera's image: glow of lamps, rain, exposure, colour cast, blur, drops on the lens, noise."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from qdbev.data.synthetic.geometry import Array
from qdbev.data.synthetic.noise import patch
from qdbev.data.synthetic.sensors.appearance import Appearance
from qdbev.data.synthetic.tokens import generator

Lamp = tuple[int, int, float, Array]


def develop(
    image: NDArray[np.float32],
    lamps: list[Lamp],
    *,
    appearance: Appearance,
    camera: int,
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """Turn light (H, W, 3) into the image a camera gives.

    Args:
        image: RGB float32, 0..255 and above; changed.
        lamps: x, y, radius in pixels, RGB.
        appearance: Exposure, white balance, noise, weather.
        camera: Index of the camera.
        rng: Draws noise and rain.
    """
    _add_glow(image, lamps)
    height, width = image.shape[:2]
    scale = width / 176
    if appearance.weather == "rain":
        _add_rain(image, appearance, rng, scale)
    image *= _vignette(width, height) * (appearance.exposure[camera] * appearance.white_balance[camera]).astype(
        np.float32
    )
    image = np.asarray(cv2.GaussianBlur(image, (0, 0), max(0.2, appearance.blur_px * scale)), dtype=np.float32)
    if appearance.drops:
        image = _drops(image, appearance, camera)
    shot = 0.6 + 0.4 * np.sqrt(np.clip(image[..., 1], 0, 255) / 128)
    for channel in range(3):
        image[..., channel] += appearance.noise * shot * patch(rng, shape=(height, width))
    return np.clip(image, 0, 255).astype(np.uint8)


@lru_cache(maxsize=4)
def _vignette(width: int, height: int) -> NDArray[np.float32]:
    """Darker corners, (H, W, 1)."""
    x, y = np.linspace(-1, 1, width), np.linspace(-1, 1, height)
    return (1 - 0.09 * (x[None] ** 2 + y[:, None] ** 2))[..., None].astype(np.float32)


def _add_glow(light: NDArray[np.float32], lamps: list[Lamp]) -> None:
    """Add a soft round glow at each lamp."""
    height, width = light.shape[:2]
    for x, y, radius, colour in lamps:
        r = float(np.clip(radius, 0.8, 30 * width / 176))
        reach = int(3 * r)
        x0, x1, y0, y1 = max(x - reach, 0), min(x + reach, width), max(y - reach, 0), min(y + reach, height)
        if x0 >= x1 or y0 >= y1:
            continue
        gx, gy = np.arange(x0, x1) - x, np.arange(y0, y1) - y
        fall = np.exp(-(gx[None] ** 2 + gy[:, None] ** 2) / (2 * r * r)).astype(np.float32)
        light[y0:y1, x0:x1] += 0.3 * fall[..., None] * colour.astype(np.float32)


def _add_rain(image: NDArray[np.float32], appearance: Appearance, rng: np.random.Generator, scale: float) -> None:
    """Short bright streaks, all falling the same way."""
    height, width = image.shape[:2]
    veil = np.zeros((height, width), np.uint8)
    count = int(rng.integers(15, 45))
    lean = float(rng.normal(0, 1.5)) * scale
    starts = rng.uniform([0, 0], [width, height], (count, 2))
    lengths = rng.uniform(3, 9, count) * scale
    for (x, y), length in zip(starts.tolist(), lengths.tolist(), strict=True):
        ends = (int(x), int(y)), (int(x + lean), int(y + length))
        cv2.line(veil, ends[0], ends[1], (255.0,), max(1, int(scale)), cv2.LINE_AA)
    weight = 0.16 * (veil.astype(np.float32) / 255)[..., None]
    image += weight * (appearance.sky_low.astype(np.float32) * 1.1 - image)


def _drops(image: NDArray[np.float32], appearance: Appearance, camera: int) -> NDArray[np.float32]:
    """Drops of water on the lens, at the same places in all images of the scene."""
    height, width = image.shape[:2]
    scale = width / 176
    rng = generator("drops", float(appearance.exposure[camera]))
    blurred = cv2.GaussianBlur(image, (0, 0), 3.0 * scale)
    mask = np.zeros((height, width), np.float32)
    for _ in range(int(rng.integers(1, appearance.drops + 1))):
        centre = (int(rng.uniform(0, width)), int(rng.uniform(0, height)))
        cv2.circle(mask, centre, max(1, int(rng.uniform(2, 6) * scale)), (0.85,), -1, cv2.LINE_AA)
    weight = np.asarray(cv2.GaussianBlur(mask, (0, 0), 0.8 * scale), dtype=np.float32)[..., None]
    wet: NDArray[np.float32] = image + weight * (blurred * np.float32(1.05) - image)
    return wet
