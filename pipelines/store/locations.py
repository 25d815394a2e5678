"""Where things lie: shipped weights, the cache of generated and read data, the synthetic scenes of some settings."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import qdbev
from pipelines.store.artifacts import Artifact, Store, model_name
from profiles.profile import Profile
from profiles.sections.data import DataProfile

SYNTHETIC = "synthetic"
FLOAT = "float"
ZOO = Path(qdbev.__file__).parent / "zoo"
_USUAL_KEY_FRAMES = 8
_USUAL_VERSION = "v1.0-trainval"


def cache_folder(data: DataProfile) -> Path:
    """Folder of generated scenes and read tables: the profile's, else $QDBEV_CACHE, else ~/.cache/qdbev."""
    return Path(data.cache or os.environ.get("QDBEV_CACHE") or "~/.cache/qdbev").expanduser()


def synthetic_root(data: DataProfile) -> Path:
    """Folder of the synthetic scenes of these settings; data sets of different size share it."""
    from qdbev.data.synthetic.settings import GENERATOR_VERSION  # numpy and OpenCV come with it

    width, height = data.image_size_px
    version = "" if data.version == _USUAL_VERSION else f"-{data.version}"
    frames = "" if data.key_frames == _USUAL_KEY_FRAMES else f"-{data.key_frames}frames"
    sweeps = "" if data.sweeps == "none" else f"-sweeps-{data.sweeps}"
    name = f"synthetic{GENERATOR_VERSION}-seed{data.seed}-{width}x{height}{version}{frames}{sweeps}"
    return cache_folder(data) / name


def shipped_weights(model: str) -> Artifact | None:
    """The shipped float weights of a model, verified, or None."""
    return Store.zoo(ZOO).last(FLOAT, model=model)


def imported_weights(model: str, *, store: Store) -> Artifact | None:
    """The float weights of a model that were last taken from a file into a store, verified, or None."""
    for artifact in reversed(store.list()):
        manifest = artifact.manifest
        if manifest.kind == FLOAT and "imported_sha256" in manifest.data and model_name(manifest.profile) == model:
            return store.verify(artifact.path)
    return None


def stated_weights(profile: Profile, *, store: Store) -> str:
    """What says which float weights a profile means, without loading them: a digest, or a word."""
    source = profile.model.weights
    if source == "zoo" and (shipped := shipped_weights(profile.model.name)):
        return shipped.digest
    if source is None and (found := imported_weights(profile.model.name, store=store)):
        return found.digest
    if source is None or source in ("zoo", "random"):
        return str(source)
    path = Path(source).expanduser()
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else store.open(source).digest


def stated_data(data: DataProfile) -> str:
    """What says which data a profile means, without reading it: generator and settings, or the tables' files."""
    if data.source == SYNTHETIC:
        return synthetic_root(data).name
    tables = sorted((Path(data.source).expanduser() / data.version).glob("*.json"))
    states = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in tables]
    return f"{data.source} {states}"
