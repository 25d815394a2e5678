"""What one camera of one scene sees apart from things: rays, ground and sky, painted per time."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from qdbev.data.synthetic.geometry import Array
from qdbev.data.synthetic.noise import patch
from qdbev.data.synthetic.sensors.appearance import Appearance
from qdbev.data.synthetic.sensors.cameras import Sensor
from qdbev.data.synthetic.sensors.ground import Ground

Image = NDArray[np.float32]
FAR_M = 160.0
_SKYLINE_BINS = 720


def headlight(x: Array, y: Array) -> Array:
    """Light of the ego's head lamps at places in the ego frame, 0..1."""
    ahead = np.clip((x - 2.0) / 4, 0, 1) * np.exp(-np.maximum(x, 0) / 28)
    return ahead * np.exp(-((y / (2.5 + 0.22 * np.maximum(x, 0))) ** 2))


class View:
    """Rays of a camera, one per pixel, and what lies behind all things.

    Args:
        sensor: The camera.
        image_size_px: Width and height.
        appearance: Light and weather.
        ground: The ground from above.
        skyline: Elevation (tangent) of the far horizon by azimuth, (720,).
    """

    def __init__(
        self,
        sensor: Sensor,
        *,
        image_size_px: tuple[int, int],
        appearance: Appearance,
        ground: Ground,
        skyline: Array,
    ) -> None:
        self.width, self.height = image_size_px
        assert sensor.intrinsic is not None
        self.intrinsic = sensor.intrinsic
        self.rotation, self.position = sensor.rotation, sensor.translation
        self.appearance, self.ground, self.skyline = appearance, ground, skyline
        u, v = np.meshgrid(np.arange(self.width) + 0.5, np.arange(self.height) + 0.5)
        pixels = np.stack([u, v, np.ones_like(u)], axis=-1)
        rays = pixels @ (self.rotation @ np.linalg.inv(self.intrinsic)).T
        planar = np.hypot(rays[..., 0], rays[..., 1])
        self.slope = rays[..., 2] / planar
        reach = self.position[2] / np.maximum(-self.slope, self.position[2] / FAR_M)
        self.is_sky = self.slope > -self.position[2] / FAR_M
        scale = (reach / planar).astype(np.float32)
        self.x = (self.position[0] + scale * rays[..., 0]).astype(np.float32)
        self.y = (self.position[1] + scale * rays[..., 1]).astype(np.float32)
        self.azimuth = np.arctan2(rays[..., 1], rays[..., 0])
        through = np.exp(-appearance.fog_per_m * np.hypot(reach, self.position[2]))
        self.through = through[..., None].astype(np.float32)
        self.haze = (1 - self.through) * appearance.sky_low.astype(np.float32)
        self.horizon = int(np.flatnonzero(self.is_sky.any(1)).max(initial=0)) + 1  # rows below show no sky
        self.coarseness = np.clip((reach - 12) / 14, 0, 1)[..., None].astype(np.float32)
        self.lamp = headlight(self.x, self.y)[..., None].astype(np.float32) * (appearance.hour != "day")
        height = np.clip(self.slope / 0.5, 0, 1)[..., None]
        height, self.slope = height[: self.horizon], self.slope[: self.horizon].astype(np.float32)
        self.gradient = ((1 - height) * appearance.sky_low + height * appearance.sky_top).astype(np.float32)

    def background(self, ego: Array, shadow: NDArray[np.uint8], rng: np.random.Generator) -> Image:
        """Ground and sky at an ego pose, RGB float32 (height, width, 3), fog included."""
        look = self.appearance
        sun = look.sunlight * max(0.0, float(look.sun[2]))
        lit = look.ambient + sun * 1.1
        dark = (lit - sun * 1.0).astype(np.float32)
        image = self._ground(ego)
        light = lit.astype(np.float32) + (dark - lit.astype(np.float32)) * (shadow[..., None] * np.float32(1 / 255))
        if look.hour != "day":
            light += self.lamp * np.array([0.75, 0.72, 0.62], dtype=np.float32)
        image *= light
        image *= self.through
        image += self.haze
        image[: self.horizon] = np.where(
            self.is_sky[: self.horizon, :, None], self._sky(ego, rng), image[: self.horizon]
        )
        return image

    def _ground(self, ego: Array) -> Image:
        cos, sin = np.cos(ego[2]), np.sin(ego[2])
        scale = 1 / self.ground.metres_per_px
        corner = self.ground.corner
        px = ((ego[0] - corner[0] + cos * self.x - sin * self.y) * scale).astype(np.float32)
        py = ((ego[1] - corner[1] + sin * self.x + cos * self.y) * scale).astype(np.float32)
        fine = cv2.remap(self.ground.fine, px, py, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        coarse = cv2.remap(self.ground.coarse, px / 4, py / 4, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        image: Image = fine + self.coarseness * (coarse - fine)
        return image

    def _sky(self, ego: Array, rng: np.random.Generator) -> Image:
        """Gradient, clouds, a far skyline and the sun's glow."""
        look = self.appearance
        azimuth = self.azimuth[0] + ego[2]
        clouds = patch(rng, shape=self.slope.shape, smoothness=64)[..., None]
        sky = self.gradient * (1 + 0.05 * clouds)
        bins = np.floor((azimuth / (2 * np.pi)) % 1.0 * _SKYLINE_BINS).astype(int) % _SKYLINE_BINS
        far = self.slope < self.skyline[bins]
        tone = look.sky_low * (0.55 if look.hour != "night" else 0.4)
        through = np.exp(-look.fog_per_m * FAR_M)
        sky[far] = (tone * through + look.sky_low * (1 - through)).astype(np.float32)
        if look.weather == "clear" and look.hour != "night":
            turn = (azimuth - np.arctan2(look.sun[1], look.sun[0]) + np.pi) % (2 * np.pi) - np.pi
            rise = np.arctan(self.slope) - np.arcsin(look.sun[2])
            glow = np.exp(-(turn[None] ** 2 + rise**2) / 0.05)[..., None].astype(np.float32)
            sky += 110 * glow
        return sky
