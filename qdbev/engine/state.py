"""Mid-run resume state: tensors as safetensors and numbers as JSON, in one folder that is there whole or not at all.

    scratch/state-00000120-1a2b3c4d/     step and the first digits of the key's digest
        tensors.safetensors  state.json  digests.json (sha256 of both, written last)

The folder is written under another name, fsynced and renamed; only then are older states removed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

_LOG = logging.getLogger(__name__)
_FILES = ("tensors.safetensors", "state.json")


class DamagedState(ValueError):
    """A saved state that a run cannot go on from; the message names its folder and says what to do."""


@dataclass(frozen=True)
class ResumeState:
    """What a state folder holds.

    Attributes:
        folder: Where it lies.
        step: Steps done.
        tensors: Tensors by name, on the CPU.
        record: The rest, as JSON gives it back.
    """

    folder: Path
    step: int
    tensors: dict[str, Tensor]
    record: dict[str, Any]


def save_state(scratch: Path, *, key: str, step: int, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> Path:
    """Write a state; the previous one is removed once this one stands.

    A state of the same key and step is left as it is: it holds the same values.

    Args:
        scratch: Folder of the run's states; made if missing.
        key: Names the run's settings; a state of another key is never resumed.
        step: Steps done.
        tensors: Tensors by name, on any device.
        record: JSON-serialisable values.

    Returns:
        The state's folder.

    Raises:
        ValueError: An entry that is not a tensor.
    """
    if strangers := [name for name, tensor in tensors.items() if not isinstance(tensor, Tensor)]:
        raise ValueError(f"{', '.join(strangers)}: expected tensors only, as resume state is never pickled")
    folder = scratch / _folder_name(key, step=step)
    if not folder.exists():
        # clones: tied weights share memory, which safetensors refuses
        whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        state = json.dumps({"key": key, "step": step, "record": dict(record)}).encode()
        _write_folder(folder, content={"tensors.safetensors": save(whole), "state.json": state})
    for other in [*scratch.glob("state-*"), *scratch.glob(".state-*")]:
        if other != folder:
            shutil.rmtree(other)
    return folder


def load_state(scratch: Path, *, key: str) -> ResumeState | None:
    """Read the newest state of a key.

    Args:
        scratch: Folder of the run's states; may be missing.
        key: The run's key.

    Returns:
        The state, or None when there is none of this key (states of other keys are mentioned in the log).

    Raises:
        DamagedState: The state is damaged.
    """
    folders = sorted(scratch.glob(_folder_name(key, step=None)))
    if not folders:
        if foreign := sorted(scratch.glob("state-*")):
            _LOG.warning("%s belongs to a run of other settings: starting from step 0", foreign[-1])
        return None
    content = {name: _verified(folders[-1], name=name) for name in _FILES}
    record = json.loads(content["state.json"])
    if record["key"] != key:
        raise DamagedState(f"resume state {folders[-1]} is of key {record['key']!r}, not {key!r}: delete that folder")
    tensors = load(content["tensors.safetensors"])
    return ResumeState(folder=folders[-1], step=record["step"], tensors=tensors, record=record["record"])


def _folder_name(key: str, *, step: int | None) -> str:
    digest = hashlib.sha256(key.encode()).hexdigest()[:8]
    return f"state-{'*' if step is None else f'{step:08d}'}-{digest}"


def _write_folder(folder: Path, *, content: Mapping[str, bytes]) -> None:
    unfinished = folder.with_name("." + folder.name)
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    try:
        for name, data in {**content, "digests.json": json.dumps(digests).encode()}.items():
            _write_synced(unfinished / name, data=data)
        _sync_folder(unfinished)
        unfinished.rename(folder)
    except OSError:
        shutil.rmtree(unfinished, ignore_errors=True)  # on a full disk, what half fits is in the way
        raise
    _sync_folder(folder.parent)


def _write_synced(path: Path, *, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _verified(folder: Path, *, name: str) -> bytes:
    try:
        expected = json.loads((folder / "digests.json").read_bytes())[name]
        data = (folder / name).read_bytes()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedState(f"resume state {folder} is damaged ({error}): delete that folder to start again") from error
    if hashlib.sha256(data).hexdigest() != expected:
        raise DamagedState(f"resume state {folder} is damaged ({name} has changed): delete that folder to start again")
    return data
