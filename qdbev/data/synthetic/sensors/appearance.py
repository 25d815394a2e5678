"""Light and weather of one scene, and how each camera renders it: hour, fog, rain, exposure, colour cast, noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qdbev.data.synthetic.geometry import Array


@dataclass(frozen=True)
class Appearance:
    """The look of a scene. Colours are RGB factors or 0..255, directions unit vectors in the scene frame.

    Attributes:
        hour: day, dusk or night.
        weather: clear, overcast, fog or rain.
        sun: Direction towards the sun (or moon).
        sunlight: RGB factor of direct light; zero shadows where overcast.
        ambient: RGB factor of light from all sides.
        sky_top: RGB of the zenith.
        sky_low: RGB of the horizon, and of fog.
        fog_per_m: Extinction.
        exposure: Factor for each of six cameras.
        white_balance: RGB factor for each of six cameras, (6, 3).
        noise: Standard deviation of sensor noise, grey levels.
        blur_px: Lens blur at 176 pixels width.
        drops: Rain drops on each lens.
        texture: Strength of surface texture.
    """

    hour: str
    weather: str
    sun: Array
    sunlight: Array
    ambient: Array
    sky_top: Array
    sky_low: Array
    fog_per_m: float
    exposure: Array
    white_balance: Array
    noise: float
    blur_px: float
    drops: int
    texture: float


_LIGHT = {  # hour -> sunlight, ambient, zenith, horizon
    "day": ((0.62, 0.60, 0.54), (0.52, 0.54, 0.58), (96, 146, 214), (196, 212, 228)),
    "dusk": ((0.52, 0.36, 0.22), (0.34, 0.34, 0.40), (70, 80, 130), (224, 160, 110)),
    "night": ((0.05, 0.06, 0.08), (0.25, 0.25, 0.29), (10, 12, 24), (44, 40, 44)),
}


def draw_appearance(rng: np.random.Generator) -> Appearance:
    """Light and weather by chance: 70 % day, 18 % dusk, 12 % night; over half of all skies clear."""
    hour = str(rng.choice(["day", "dusk", "night"], p=[0.7, 0.18, 0.12]))
    weather = str(rng.choice(["clear", "overcast", "fog", "rain"], p=[0.55, 0.2, 0.1, 0.15]))
    sunlight, ambient, top, low = (np.array(v, dtype=np.float64) for v in _LIGHT[hour])
    if weather != "clear":
        dull = 0.35 if weather == "overcast" else 0.2
        ambient, sunlight = ambient + 0.35 * sunlight, dull * sunlight
        grey = np.array([168.0, 172.0, 178.0]) * (0.15 if hour == "night" else 1 if hour == "day" else 0.6)
        top, low = 0.3 * top + 0.7 * grey, 0.3 * low + 0.7 * grey * 1.08
    height = {"day": rng.uniform(0.5, 1.1), "dusk": rng.uniform(0.12, 0.4), "night": 0.8}[hour]
    azimuth = rng.uniform(-np.pi, np.pi)
    sun = np.array([np.cos(azimuth) * np.cos(height), np.sin(azimuth) * np.cos(height), np.sin(height)])
    fog = {"fog": rng.uniform(0.012, 0.03), "rain": rng.uniform(0.004, 0.01)}.get(weather, rng.uniform(0.0, 0.004))
    gain = {"day": 1.0, "dusk": 1.15, "night": 1.7}[hour]
    return Appearance(
        hour=hour,
        weather=weather,
        sun=sun,
        sunlight=sunlight,
        ambient=ambient,
        sky_top=top,
        sky_low=low,
        fog_per_m=float(fog),
        exposure=gain * rng.lognormal(0, 0.12) * rng.lognormal(0, 0.08, 6),
        white_balance=np.exp(rng.normal(0, 0.04, (1, 3)) + rng.normal(0, 0.03, (6, 3))),
        noise=float(rng.uniform(1.0, 3.0) * (1.4 if hour == "night" else 1.0)),
        blur_px=float(rng.uniform(0.15, 0.55)),
        drops=int(rng.integers(2, 9)) if weather == "rain" else 0,
        texture=float(rng.uniform(0.02, 0.07)),
    )
