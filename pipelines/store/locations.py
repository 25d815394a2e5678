"""Where things lie: the shipped store, the cache of generated and read data, the synthetic scenes of some settings."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import qdbev
from profiles.document import fingerprint
from profiles.home import expanded
from profiles.sections.data import DataProfile
from profiles.sections.rig import NUSCENES_RIG

SYNTHETIC = "synthetic"
USUAL_STORE = Path("runs")
"""Where artifacts lie unless ``--store`` says otherwise."""
ZOO = Path(qdbev.__file__).parent / "zoo"
_USUAL_KEY_FRAMES = 8
_USUAL_VERSION = "v1.0-trainval"


def at_store(root: Path) -> str:
    """The option that names a store in a command, where it is not the usual one.

    >>> at_store(Path("runs")), at_store(Path("my runs"))
    ('', " --store 'my runs'")
    """
    return "" if root == USUAL_STORE else f" --store {shlex.quote(str(root))}"


def cache_folder(data: DataProfile) -> Path:
    """Folder of generated scenes and read tables: the profile's, else $QDBEV_CACHE, else ~/.cache/qdbev."""
    return expanded(data.cache or os.environ.get("QDBEV_CACHE") or "~/.cache/qdbev")


def synthetic_root(data: DataProfile) -> Path:
    """Folder of the synthetic scenes of these settings; data sets of different size share it."""
    from qdbev.data.synthetic.settings import GENERATOR_VERSION  # numpy and OpenCV come with it

    width, height = data.image_size_px
    version = "" if data.version == _USUAL_VERSION else f"-{data.version}"
    frames = "" if data.key_frames == _USUAL_KEY_FRAMES else f"-{data.key_frames}frames"
    sweeps = "" if data.sweeps == "none" else f"-sweeps-{data.sweeps}"
    rig = "" if data.rig == NUSCENES_RIG else f"-{data.rig.name}-{fingerprint(data.rig.content())[:8]}"
    name = f"synthetic{GENERATOR_VERSION}-seed{data.seed}-{width}x{height}{version}{frames}{sweeps}{rig}"
    return cache_folder(data) / name
