"""Writing a folder whole or not at all: a locked hidden folder, pushed to the disk, then renamed into place."""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import errno
import fcntl
import math
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines.store import processes
from pipelines.store.integrity import (
    DamagedArtifact,
    StoreUnwritable,
    list_files,
    refuse_pickles,
    seal_of,
)
from pipelines.store.tensors import check_numbers
from profiles.manifest import Manifest, Record
from profiles.profile import Profile

_UNFINISHED = ".unfinished-"
_HERE, _SWAP = -100, 2  # what renameat2(2) calls AT_FDCWD and RENAME_EXCHANGE
_OF_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENOTDIR, errno.EFBIG)
_GRACE_S = 10.0  # between making and locking a folder another process must not take it for abandoned


@contextlib.contextmanager
def unfinished_folder(root: Path) -> Iterator[Path]:
    """A new hidden folder under ``root``, locked by this process and gone afterwards whatever happens.

    Folders that killed processes left are removed on the way: nobody holds their lock any more.

    Raises:
        StoreUnwritable: If the disk is full or ``root`` cannot be written, also where that shows inside the block.
    """
    with explained_writing(root):
        if root.exists() and not root.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(root))
        root.mkdir(parents=True, exist_ok=True)
        _sweep(root)
        folder = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=root))
        lock = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def describe(
    folder: Path,
    *,
    kind: str,
    profile: Profile,
    key: str,
    fields: Mapping[str, Any],
    seconds: Mapping[str, float],
) -> Manifest:
    """The manifest for the files in ``folder``.

    Args:
        folder: What was written.
        kind: Kind of the artifact.
        profile: The profile as used.
        key: Fingerprint of what decides the content.
        fields: Further fields of the manifest; NaN and infinity in them become null.
        seconds: Durations.

    Raises:
        DamagedArtifact: If there is a pickle or a broken safetensors file in it.
    """
    names = list_files(folder)
    refuse_pickles(folder, names=names)
    for name in names:
        if name.endswith(".safetensors"):
            _check_written(folder / name)
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
    return Manifest(
        kind=kind,
        name=f"{profile.name}-{profile.model.name}",
        key=key,
        profile=profile.content(),
        seed=profile.seed,
        files={name: seal_of(folder / name) for name in names},
        record=Record(
            created=created,
            seconds=dict(seconds),
            command=[*sys.argv],
            circumstances=profile.circumstances() | processes.in_key(),
        ),
        **{name: plain_json(value) for name, value in fields.items() if value},
    )


def move_into_place(folder: Path, *, target: Path, replace: bool) -> None:
    """Rename ``folder`` to ``target``; where that exists, the first one stays, unless ``replace``.

    What is replaced stays at its place until the new one takes it, in one step where the system can.
    """
    if replace and target.exists() and _exchange(folder, target):
        _fsync(target.parent)
        return  # the old one lies in the unfinished folder now, and goes with it
    aside = folder.with_name(f"{folder.name}-replaced")
    try:
        if replace and target.exists():
            target.rename(aside)
        folder.rename(target)
    except OSError as error:
        if aside.exists():
            aside.rename(target)
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return  # another process sealed the same key first; ours is thrown away
    shutil.rmtree(aside, ignore_errors=True)
    _fsync(target.parent)


def fit_umask(folder: Path) -> None:
    """Give a folder and all in it the permissions that files of this process have, whatever wrote them."""
    mask = os.umask(0)
    os.umask(mask)
    for path in [*folder.rglob("*"), folder]:
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def fsync_tree(folder: Path) -> None:
    """Push every file and folder under ``folder``, and itself, to the disk."""
    for path in [*sorted(folder.rglob("*")), folder]:
        _fsync(path)


@contextlib.contextmanager
def explained_writing(root: Path) -> Iterator[None]:
    """Turn failures to write into one clear sentence.

    Raises:
        StoreUnwritable: For a full disk, missing permission and the like; other errors pass through.
    """
    try:
        yield
    except StoreUnwritable:
        raise
    except Exception as error:
        reason = _reason(error)
        if reason is None:
            raise
        raise StoreUnwritable(f"the store {root} cannot be written: {reason}") from error


def plain_json(value: Any) -> Any:
    """Plain JSON of mappings and sequences; NaN and infinity become None, numpy and torch scalars become numbers.

    >>> plain_json({"AP": (0.5, float("nan"))})
    {'AP': [0.5, None]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(one) for one in value]
    if value is not None and not isinstance(value, str | int | float) and hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _check_written(path: Path) -> None:
    try:
        check_numbers(path)
    except ValueError as error:
        raise DamagedArtifact(f"{path.name} was not written whole: {error}") from None


def _sweep(root: Path) -> None:
    for folder in root.glob(f"{_UNFINISHED}*"):
        with contextlib.suppress(OSError):
            lock = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time() - folder.stat().st_mtime > _GRACE_S:
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two folders in one step (renameat2); False where the system or the file system cannot, and nothing is done.

    Raises:
        OSError: It could, and failed.
    """
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    if renameat2(_HERE, os.fsencode(first), _HERE, os.fsencode(second), _SWAP) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
        return False
    raise OSError(code, os.strerror(code), str(second))


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _reason(error: Exception) -> str | None:
    """What the system says, in words; None where it is not the disk's trouble."""
    code = error.errno if isinstance(error, OSError) else None
    if isinstance(error, shutil.Error):  # of a copied folder: the text of each file's error
        code = next((number for number in _OF_DISK if os.strerror(number) in str(error)), None)
    if code is None and (stated := re.search(r"\(os error (\d+)\)", str(error))):
        code = int(stated[1])  # safetensors wraps the system's error into its own and keeps only the text
    if code in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error):
        return "the disk is full. Nothing was sealed; free some space and run the same again"
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{os.strerror(code)}; choose another with --store"
    return os.strerror(code) if code in _OF_DISK else None
