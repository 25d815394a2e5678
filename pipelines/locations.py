"""Where things lie: shipped weights, the cache of generated and read data, the synthetic scenes of some settings."""

from __future__ import annotations

import os
from pathlib import Path

import qdbev
from pipelines.store import Artifact, Store
from profiles.data import DataProfile
from profiles.profile import Profile

SYNTHETIC = "synthetic"
FLOAT = "float"
ZOO = Path(qdbev.__file__).parent / "zoo"
_USUAL_KEY_FRAMES = 8


def cache_folder(data: DataProfile) -> Path:
    """Folder of generated scenes and read tables: the profile's, else $QDBEV_CACHE, else ~/.cache/qdbev."""
    return Path(data.cache or os.environ.get("QDBEV_CACHE") or "~/.cache/qdbev").expanduser()


def synthetic_root(data: DataProfile) -> Path:
    """Folder of the synthetic scenes of these settings; data sets of different size share it."""
    width, height = data.image_size_px
    frames = "" if data.key_frames == _USUAL_KEY_FRAMES else f"-{data.key_frames}frames"
    sweeps = "" if data.sweeps == "none" else f"-sweeps-{data.sweeps}"
    return cache_folder(data) / f"synthetic-seed{data.seed}-{width}x{height}{frames}{sweeps}"


def shipped_weights(model: str) -> Artifact | None:
    """The shipped float weights of a model, verified, or None."""
    return Store.zoo(ZOO).last(FLOAT, model=model)


def stated_weights(profile: Profile) -> str:
    """What says which float weights a profile means, without reading them: a digest, a path or a word."""
    shipped = shipped_weights(profile.model.name) if profile.model.weights == "zoo" else None
    return shipped.digest if shipped else str(profile.model.weights)
