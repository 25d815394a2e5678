"""Contents of the files that a detector reads: each looked at and hashed once, and then remembered by its state.

The state of a file is its size, inode and times, as version control has it. A file whose state is the remembered one is
not opened again, unless it was changed in the moments before it was read. What is remembered of a scene lies in a file
of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from qdbev.data.image_files import NOT_WHOLE, decoded, flaw, stated_size
from qdbev.data.nuscenes.findings import Finding, warning

_FORMAT = 2
_THREADS = 8
_SETTLED_NS = 2_000_000_000  # the clock of a file system is coarse: what changed later than this is read again

Sample = dict[str, Any]
Memory = dict[str, list[Any]]


@dataclass(frozen=True)
class File:
    """A file that is read, and the size of its picture by the tables (None: it is no picture)."""

    name: str
    size_px: tuple[int, int] | None = None


def look_into_files(
    samples: Sequence[Sample], *, root: Path, cache: Path, lidar: bool, progress: bool = False
) -> list[Finding]:
    """Write the digest of each file into the samples, for ``scene_digest``, and say what is wrong.

    Args:
        samples: Of ``read_samples``; entries ``content`` of images, ``lidar_content`` of samples are added.
        root: Folder of their paths.
        cache: Folder of what is remembered.
        lidar: Whether LiDAR files are read, too.
        progress: Show a bar over scenes.
    """
    scenes: dict[str, list[Sample]] = {}
    for sample in samples:
        scenes.setdefault(sample["scene"], []).append(sample)
    findings: list[Finding] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for name, own in tqdm(scenes.items(), desc="looking into files", unit="scene", disable=not progress):
            files = list(_files_of(own, lidar=lidar))
            memory = _looked_into(files, root=root, path=_memory_path(cache, root=root, scene=name), pool=pool)
            findings += [
                _finding(file, root=root, fault=memory[file.name][-1]) for file in files if memory[file.name][-1]
            ]
            findings += _twins(files, memory=memory)
            _note(own, memory=memory, lidar=lidar)
    return findings


def _files_of(samples: Sequence[Sample], *, lidar: bool) -> Iterator[File]:
    for sample in samples:
        for image in sample["images"].values():
            yield File(image["img_path"], (image["height"], image["width"]))
        if lidar and sample["lidar_path"]:
            yield File(sample["lidar_path"])


def _note(samples: Sequence[Sample], *, memory: Memory, lidar: bool) -> None:
    for sample in samples:
        for image in sample["images"].values():
            image["content"] = memory[image["img_path"]][-2]
        if lidar and sample["lidar_path"]:
            sample["lidar_content"] = memory[sample["lidar_path"]][-2]


def _looked_into(files: Sequence[File], *, root: Path, path: Path, pool: ThreadPoolExecutor) -> Memory:
    """Of each file its state, when it was read, the size by the tables, digest and what is wrong with it."""
    known = _read_memory(path)
    memory: Memory = {}
    unread = []
    for file in files:
        entry = known.get(file.name)
        state = _state(root / file.name)
        if (
            entry
            and entry[:4] == state
            and entry[4] - max(state[2:4]) > _SETTLED_NS
            and entry[5] == _listed(file.size_px)
        ):
            memory[file.name] = entry
        else:
            unread.append((file, state))
    for (file, _), entry in zip(unread, pool.map(lambda item: _read(item[0], item[1], root=root), unread), strict=True):
        memory[file.name] = entry
    if unread:
        _write_memory(known | memory, path=path)
    return memory


def _read(file: File, state: list[int], *, root: Path) -> list[Any]:
    now = time.time_ns()
    try:
        raw = (root / file.name).read_bytes()
    except OSError as error:
        return [*state, now, _listed(file.size_px), "", f"cannot be read ({error.strerror})"]
    fault = _fault_of_points(raw) if file.size_px is None else _fault(raw, size_px=file.size_px)
    fault = fault or ("" if raw else "is empty")
    return [*state, now, _listed(file.size_px), hashlib.sha256(raw).hexdigest(), fault]


def _fault_of_points(raw: bytes) -> str:
    if len(raw) % 4:
        return "is cut in the middle of a number"
    return "" if np.isfinite(np.frombuffer(raw, dtype="<f4")).all() else "holds numbers that are not finite"


def _fault(raw: bytes, *, size_px: tuple[int, int]) -> str:
    if fault := flaw(raw):
        return fault
    size = stated_size(raw)
    if size is None:
        image = decoded(raw)
        if image is None:
            return NOT_WHOLE
        size = image.shape[0], image.shape[1]
    return "" if size == size_px else f"is {size[1]}x{size[0]}, but its table says {size_px[1]}x{size_px[0]}"


def _finding(file: File, *, root: Path, fault: str) -> Finding:
    kind, table = ("LiDAR file", "lidar") if file.size_px is None else ("camera image", "image")
    sentence = f"{kind} {root / file.name} {fault}; unpack or generate it again"
    return Finding(table, "sample_data", file.name, sentence)


def _twins(files: Sequence[File], *, memory: Memory) -> list[Finding]:
    """Files of one scene with the same bytes: a camera that stood still, or one that was copied to another's place."""
    first: dict[str, str] = {}
    twins = [
        file.name for file in files if first.setdefault(memory[file.name][-2] or file.name, file.name) != file.name
    ]
    if not twins:
        return []
    other = first[memory[twins[0]][-2]]
    sentence = f"{len(twins)} files have the bytes of another one, such as {twins[0]} those of {other}"
    return [warning("file", "sample_data", twins[0], sentence)]


def _state(path: Path) -> list[int]:
    try:
        found = os.stat(path)
    except OSError:
        return [-1, -1, -1, -1]
    return [found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]


def _listed(size_px: tuple[int, int] | None) -> list[int]:
    return list(size_px or ())


def _memory_path(cache: Path, *, root: Path, scene: str) -> Path:
    key = hashlib.sha256(f"{_FORMAT}:{root.resolve()}:{scene}".encode()).hexdigest()[:32]
    return cache / f"contents-{key}.json"


def _read_memory(path: Path) -> Memory:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _write_memory(memory: Memory, *, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as stream:
            json.dump(memory, stream)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
