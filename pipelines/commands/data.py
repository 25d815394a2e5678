"""data: synth makes a synthetic data set in nuScenes format, prepare checks and reads one's own nuScenes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines.reporting.outcome import Outcome
from pipelines.store.integrity import reading_data
from pipelines.store.locations import SYNTHETIC, synthetic_root
from profiles import Profile
from profiles.home import expanded
from qdbev.reporting.tables.table import plain_table

ALL_TRAIN, ALL_VAL = 700, 150  # the scene names of nuscenes-devkit's own splits


def synth(
    profile: Profile,
    *,
    out: Path | None = None,
    dry_run: bool = False,
    progress: bool = True,
) -> Outcome:
    """Generate the scenes of a profile's data section; goes on where it was interrupted.

    Args:
        profile: Its data section says how many scenes, their size and seed.
        out: Folder of the data set; None takes the cache that the other commands read.
        dry_run: Say what would be done.
        progress: Show a bar.
    """
    from qdbev.data.synthetic import generate  # slow to import

    data = profile.data
    root = expanded(out or synthetic_root(data))
    train = ALL_TRAIN if data.train_scenes is None else data.train_scenes
    val = ALL_VAL if data.val_scenes is None else data.val_scenes
    width, height = data.image_size_px
    if dry_run:
        return Outcome(would_do=[f"generate {train} train and {val} val scenes of {width}x{height} images in {root}"])
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
    headers = ["train scenes", "val scenes", "samples", "boxes", "MB"]
    return Outcome(
        tables=[plain_table("data", title="Data set", headers=headers, rows=rows)],
        metrics={"samples": summary.samples, "annotations": summary.annotations, "digest": summary.digest},
        messages=[f"nuScenes-format data set of version {data.version}: {root}"],
    )


def prepare(
    profile: Profile,
    *,
    dry_run: bool = False,
    progress: bool = True,
) -> Outcome:
    """Check a nuScenes tree and read its key frames into the cache, split by split.

    Args:
        profile: Its data section names the folder and the version; all scenes are read, whatever it limits.
        dry_run: Say what would be done.
        progress: Show bars.

    Raises:
        ValueError: Tables or images are missing or damaged, with counts.
    """
    from pipelines.assembly.samples import load_split  # slow to import
    from qdbev.data.nuscenes.tables import check_tables, split_scenes

    data = profile.data.model_copy(update={"train_scenes": None, "val_scenes": None})
    if data.source == SYNTHETIC:
        raise ValueError("data prepare reads a nuScenes folder of yours: name it with --root")
    root = expanded(data.source)
    names = list(split_scenes(data.version))
    if dry_run:
        return Outcome(would_do=[f"check {root / data.version} and read its splits {' and '.join(names)}"])
    with reading_data():
        check_tables(root, version=data.version)
    rows: list[list[Any]] = []
    with_can = scenes = 0
    for name in names:
        split = load_split(data, name=name, progress=progress)
        known = sum((root / "can_bus" / f"{scene}_pose.json").is_file() for scene in split.scenes)
        boxes = sum(len(sample["instances"]["bbox_label_3d"]) for sample in split.samples)
        rows.append([name, len(split.scenes), len(split.samples), boxes, known])
        with_can, scenes = with_can + known, scenes + len(split.scenes)
    motion = f"motion of {with_can} of {scenes} scenes from the CAN bus"
    if with_can < scenes:
        motion += ", of the others from ego poses (unpack the CAN bus expansion beside samples/ for BEVFormer's own)"
    headers = ["split", "scenes", "key frames", "boxes", "scenes with CAN bus"]
    return Outcome(
        tables=[plain_table("data", title=f"nuScenes {data.version}", headers=headers, rows=rows)],
        metrics={row[0]: dict(zip(headers[1:], row[1:], strict=True)) for row in rows},
        messages=[motion, f"ready: --set data.source={root} --set data.version={data.version}"],
    )
