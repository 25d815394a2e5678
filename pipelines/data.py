"""data synth: a synthetic data set in nuScenes format, in the cache or where one wants it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.integrity import reading_data
from pipelines.locations import synthetic_root
from pipelines.outcome import dry, finished, table
from pipelines.store import Store
from profiles import Profile

ALL_TRAIN, ALL_VAL = 700, 150  # the scene names of nuscenes-devkit's own splits


def synth(
    profile: Profile,
    *,
    out: Path | None = None,
    store: Store | None = None,
    force: bool = False,
    dry_run: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Generate the scenes of a profile's data section; goes on where it was interrupted.

    Args:
        profile: Its data section says how many scenes, their size and seed.
        out: Folder of the data set; None takes the cache that the other commands read.
        store: Not used: a data set is no artifact.
        force: Not used: what is whole is never made again.
        dry_run: Say what would be done.
        progress: Show a bar.
    """
    from qdbev.data.synthetic import generate  # slow to import

    data = profile.data
    root = (out or synthetic_root(data)).expanduser()
    train = ALL_TRAIN if data.train_scenes is None else data.train_scenes
    val = ALL_VAL if data.val_scenes is None else data.val_scenes
    width, height = data.image_size_px
    if dry_run:
        return dry([f"generate {train} train and {val} val scenes of {width}x{height} images in {root}"])
    with reading_data():
        summary = generate(
            root,
            version=data.version,
            train_scenes=train,
            val_scenes=val,
            seed=data.seed,
            image_size_px=data.image_size_px,
            key_frames=data.key_frames,
            sweeps=data.sweeps,
            progress=progress,
        )
    rows = [[summary.train_scenes, summary.val_scenes, summary.samples, summary.annotations, summary.size_bytes / 1e6]]
    return finished(
        None,
        tables=[table("Data set", headers=["train scenes", "val scenes", "samples", "boxes", "MB"], rows=rows)],
        metrics={"samples": summary.samples, "annotations": summary.annotations, "digest": summary.digest},
        messages=[f"nuScenes-format data set of version {data.version}: {root}"],
    )
