"""One process at a time on one thing: the others wait, see for whom, and go on when that one is done or dead.

The lock is the system's own (flock), so it ends with its process, however that ends. The file only says who holds it;
the holder removes it. A file that a killed process left is taken over.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

_PAUSE_S = 0.2
_HELD = (errno.EAGAIN, errno.EACCES)
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What file systems say that know no locks; there every process goes on as if it were alone."""


@contextlib.contextmanager
def alone(path: Path, *, progress: bool = False) -> Iterator[bool]:
    """Hold the lock of a file; its folder is made if need be.

    Args:
        path: The file; gone when nobody holds or awaits it.
        progress: Show for whom this process waits.

    Yields:
        Whether another process held it first.
    """
    handle, waited = _locked(path, progress=progress)
    try:
        _sign(handle)
        yield waited
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_UN)  # forked children may still have the file open
        os.close(handle)


def holder(path: Path) -> str:
    """Who holds the lock of a file, in words."""
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        return f"process {entry['pid']} on {entry['host']}, since {entry['since']}"
    except (OSError, ValueError, LookupError, TypeError):
        return "another process"


def _locked(path: Path, *, progress: bool) -> tuple[int, bool]:
    """The open file, locked, and whether that took waiting."""
    handle = _attempt(path)
    if handle is not None:
        return handle, False
    with tqdm(bar_format="{desc} [{elapsed}]", leave=False, disable=not progress) as bar:
        while handle is None:
            bar.set_description_str(f"{path.stem} is being made by {holder(path)}: waiting")
            time.sleep(_PAUSE_S)
            handle = _attempt(path)
    return handle, True


def _attempt(path: Path) -> int | None:
    """The open file, locked; None where another process holds it, or removed it meanwhile."""
    handle = _opened(path)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _WITHOUT_LOCKS:
            return handle
        os.close(handle)
        if error.errno in _HELD:
            return None
        raise
    with contextlib.suppress(OSError):
        if os.path.samestat(path.stat(), os.fstat(handle)):
            return handle
    os.close(handle)
    return None


def _opened(path: Path) -> int:
    """The file, made where it is missing; another's that may not be written can be locked all the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        if not path.exists():
            raise
        return os.open(path, os.O_RDONLY)


def _sign(handle: int) -> None:
    """Write into the file who holds it."""
    since = datetime.datetime.now(datetime.UTC).isoformat(sep=" ", timespec="seconds")
    entry = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
    with contextlib.suppress(OSError):
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(entry).encode(), 0)
