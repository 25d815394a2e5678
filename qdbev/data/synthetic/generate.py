"""Generate a synthetic nuScenes tree, go on where a killed call stopped, or let a tree grow.

Order of writing: settings, then per scene its files and last its fragment, then maps and tables, last the marker.
So a fragment or marker that stands in the tree speaks of whole files. One process at a time works on a tree: others
wait at a lock file beside it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from filelock import FileLock
from tqdm import tqdm

from qdbev.data.synthetic.files.tables import SCENE_TABLES, Row, shared_tables, shared_token
from qdbev.data.synthetic.files.tree import (
    FILES,
    MARKER,
    SETTINGS,
    SyntheticSummary,
    digest_of,
    fragment_path,
    read_fragment,
    read_marker,
    read_settings,
    sizes_of,
    verify,
    write_atomically,
)
from qdbev.data.synthetic.scene import render_scene
from qdbev.data.synthetic.settings import Settings
from qdbev.data.synthetic.vehicle import NUSCENES, Vehicle


def scene_names(*, train_scenes: int, val_scenes: int) -> tuple[list[str], list[str]]:
    """The first names of the devkit's own train and val splits.

    >>> scene_names(train_scenes=2, val_scenes=1)
    (['scene-0001', 'scene-0002'], ['scene-0003'])
    """
    from nuscenes.utils import splits  # slow to import, and needed only here

    for count, split, known in ((train_scenes, "train", splits.train), (val_scenes, "val", splits.val)):
        if not 0 <= count <= len(known):
            raise ValueError(f"{split}_scenes is {count}, expected 0..{len(known)}, the {split} names of nuScenes")
    if train_scenes + val_scenes == 0:
        raise ValueError("train_scenes and val_scenes are both 0, expected at least one scene")
    return list(splits.train[:train_scenes]), list(splits.val[:val_scenes])


def generate(
    root: Path,
    *,
    version: str = "v1.0-trainval",
    train_scenes: int,
    val_scenes: int,
    seed: int = 0,
    image_size_px: tuple[int, int] = (176, 96),
    key_frames: int = 8,
    sweeps: str = "none",
    vehicle: Vehicle = NUSCENES,
    grow_only: bool = False,
    workers: int | None = None,
    progress: bool = False,
) -> SyntheticSummary:
    """Make a tree of synthetic scenes in nuScenes format, or complete one.

    Each scene depends on the seed, its name and the settings alone, so a tree grows by rendering only what it lacks.
    The tables list exactly the scenes asked for; scenes rendered earlier stay on disk for a later call. While another
    process works on the same tree, this call waits.

    Args:
        root: Folder of the tree, made if missing; the file ``.<name>.lock`` beside it stays.
        version: Name of the folder of tables.
        train_scenes: How many scenes of the train split, 0..700.
        val_scenes: How many scenes of the val split, 0..150.
        seed: Seed of all scenes.
        image_size_px: Width and height, at most 1600x900.
        key_frames: Key frames per scene at 2 Hz.
        sweeps: Scenes with 12 Hz camera images between key frames: none, val or all.
        vehicle: Its sensors, and how its tables call things.
        grow_only: Keep listing the scenes that the tables list already, where they are more.
        workers: Processes, by default one per core; the result does not depend on it.
        progress: Whether to show a bar.

    Raises:
        ValueError: The settings are impossible, or the folder holds something else.
    """
    settings = Settings(version, seed, *image_size_px, key_frames, sweeps, vehicle=vehicle)
    train, val = scene_names(train_scenes=train_scenes, val_scenes=val_scenes)
    root = Path(root)
    with _alone(root):
        _prepare(root, settings)
        if grow_only and (root / MARKER).exists():
            listed = read_marker(root)
            train, val = max(train, listed["train"], key=len), max(val, listed["val"], key=len)
        if not _is_sealed(root, train, val):
            with_sweeps: set[str] = {"none": set[str](), "val": set(val), "all": {*train, *val}}[sweeps]
            jobs = [(name, name in with_sweeps) for name in (*train, *val) if not fragment_path(root, name).exists()]
            done = _rendered(root, settings, jobs, workers)
            for _ in tqdm(done, total=len(jobs), desc="making synthetic scenes", unit="scene", disable=not progress):
                pass
            _assemble(root, settings, train, val)
        return verify(root)


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold the lock of a tree; where nothing can be written beside it, such as on a read-only disk, go on without."""
    place = root.resolve()
    with ExitStack() as held:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            lock = place.parent / f".{place.name}.lock"
            os.close(os.open(lock, os.O_RDWR | os.O_CREAT, 0o666))  # where no file can be, FileLock tries for ever
            held.enter_context(FileLock(lock))
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
        yield


def _prepare(root: Path, settings: Settings) -> None:
    """Write the settings, then make the folders, or refuse a folder that holds something else."""
    path = root / SETTINGS
    if path.exists():
        known = read_settings(root)
        if known != settings.as_dict():
            differ = [f"{k}: {known.get(k)!r}, asked {v!r}" for k, v in settings.as_dict().items() if known.get(k) != v]
            raise ValueError(f"{root} holds scenes of other settings ({'; '.join(differ)}); choose another folder")
    else:
        root.mkdir(parents=True, exist_ok=True)
        unfinished = set(root.glob(f".{SETTINGS}.[0-9]*"))  # a call was killed as it wrote them
        if set(root.iterdir()) - unfinished:
            raise ValueError(f"{root} is not empty and holds no synthetic data set; choose another folder")
        for scratch in unfinished:
            scratch.unlink()
        write_atomically(path, json.dumps(settings.as_dict(), indent=1))
    for folder in ("scenes", "maps", settings.version, *settings.vehicle.folders):
        (root / folder).mkdir(parents=True, exist_ok=True)


def _is_sealed(root: Path, train: list[str], val: list[str]) -> bool:
    """Whether the marker speaks of exactly these scenes."""
    if not (root / MARKER).exists():
        return False
    marker = read_marker(root)
    return bool(marker["train"] == train and marker["val"] == val)


def _rendered(root: Path, settings: Settings, jobs: list[tuple[str, bool]], workers: int | None) -> Iterator[str]:
    """Names of scenes as they are done, over all processes."""
    count = min(len(jobs), workers or len(os.sched_getaffinity(0)))
    render = partial(render_scene, root, settings=settings)
    if count <= 1:
        for name, sweeps in jobs:
            render(name=name, sweeps=sweeps)
            yield name
        return
    # fork where there is one: the children use neither torch nor CUDA, and importing them anew costs seconds
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(count, context, initializer=_end_with, initargs=(os.getpid(),)) as pool:
        futures = {pool.submit(render, name=name, sweeps=sweeps): name for name, sweeps in jobs}
        try:
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        except BaseException:  # a fragment that stands speaks of whole files, so nobody need wait for scenes under way
            for child in multiprocessing.active_children():
                child.terminate()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _end_with(parent: int) -> None:
    """End this process soon after its parent: one that outlives a killed call would write beside the next one's."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _assemble(root: Path, settings: Settings, train: list[str], val: list[str]) -> None:
    """Write maps, tables and the marker from the fragments."""
    (root / MARKER).unlink(missing_ok=True)
    names = [*train, *val]
    fragments = [read_fragment(root, name) for name in names]
    tables = _joined(fragments, vehicle=settings.vehicle)
    for row in tables.get("map", ()):
        _write_map(root / row["filename"])
    digests = {}
    for table, rows in tables.items():
        text = json.dumps(rows, separators=(",", ":"))
        write_atomically(root / settings.version / f"{table}.json", text)
        digests[table] = hashlib.sha256(text.encode()).hexdigest()
    if settings.vehicle.tables != "nuscenes":
        write_atomically(root / settings.version / "splits.json", json.dumps({"train": train, "val": val}))
    sizes = sizes_of(fragments)
    listed = json.dumps(sizes, separators=(",", ":"))
    write_atomically(root / FILES, listed)
    summary = SyntheticSummary(
        train_scenes=len(train),
        val_scenes=len(val),
        samples=len(tables["sample"]),
        annotations=len(tables["sample_annotation"]),
        instances=len(tables["instance"]),
        files=len(sizes),
        size_bytes=sum(sizes.values()),
        digest=digest_of(root, names),
    )
    scenes = {"train": train, "val": val, "digest": summary.digest}
    sealed = {"tables": digests, "files": hashlib.sha256(listed.encode()).hexdigest()}
    marker = {**settings.as_dict(), **scenes, **sealed, "counts": asdict(summary)}
    write_atomically(root / MARKER, json.dumps(marker, indent=1))


def _joined(fragments: list[dict[str, Any]], *, vehicle: Vehicle) -> dict[str, list[Row]]:
    """All thirteen tables, or TruckScenes' fourteen, three of them without rows."""
    tables: dict[str, list[Row]] = {t: [row for f in fragments for row in f["tables"][t]] for t in SCENE_TABLES}
    tables |= shared_tables(vehicle)
    if vehicle.tables == "truckscenes":
        return {name: rows for name, rows in tables.items() if name not in ("log", "map")} | {
            name: [] for name in ("ego_motion_cabin", "ego_motion_chassis", "weather_annotation")
        }
    maps = {row["token"]: row for row in tables["map"]}
    for log in tables["log"]:
        maps[shared_token("map", log["location"])]["log_tokens"].append(log["token"])
    return tables


def _write_map(path: Path) -> None:
    """An empty semantic prior: the devkit asks for the file, detection does not read it."""
    if not path.exists():
        scratch = path.with_name(f".{os.getpid()}.{path.name}")
        done, data = cv2.imencode(".png", np.full((64, 64), 255, np.uint8))
        if not done:
            raise ValueError(f"OpenCV could not encode {path}")
        scratch.write_bytes(data.tobytes())
        os.replace(scratch, path)
