"""The machine's errors as sentences with a remedy: memory, disk, file descriptors, shared memory, killed processes.

Libraries wrap what the system says into errors of their own and loading processes send theirs as text, so it is the
words of an error that are looked at, and those of the errors that led to it.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

_LONGEST_CHAIN = 10
_BATCH = "--set qat.batch_size=1 --set distillation.schedule.batch_size=1"


class Trouble(NamedTuple):
    """A kind of trouble."""

    words: str
    """What an error says of it, as a regular expression."""
    sentence: str
    """What is wrong."""
    remedy: str
    """What helps."""
    codes: tuple[int, ...] = ()
    """Error numbers of the system that mean it."""


TROUBLES = (
    Trouble(
        r"shared memory|/dev/shm|\bshm\b|/torch_\d|signal: Bus error",
        "/dev/shm is too small for what loading processes send",
        "load in the process itself by --set data.workers=0, or enlarge it (docker run --shm-size=8g)",
    ),
    Trouble(
        r"CUDA out of memory|CUDA error: out of memory|HIP out of memory|CUDNN_STATUS_ALLOC_FAILED",
        "the GPU has no memory left",
        f"take a smaller batch ({_BATCH}), another GPU (--device cuda:1) or --device cpu",
    ),
    Trouble(
        r"not enough memory|Cannot allocate memory|can't allocate|[Uu]nable to allocate|Failed to allocate|bad_alloc"
        r"|out of memory|Insufficient memory|failed to map segment",
        "there is no memory left",
        f"take a smaller batch ({_BATCH}) or fewer loading processes (--set data.workers=0)",
        (errno.ENOMEM,),
    ),
    Trouble(
        r"DataLoader worker .*(killed by signal|exited unexpectedly)|the process pool was terminated abruptly",
        "a process that loads or makes data was killed, as the system does when memory runs out",
        "take fewer of them by --set data.workers=0, a smaller batch, or a machine with more memory",
    ),
    Trouble(
        r"Too many open files|received \d+ items of ancdata|unable to open shared memory object",
        "no file descriptors are left",
        "raise their limit by ulimit -n 65536, or take fewer loading processes by --set data.workers=0",
        (errno.EMFILE, errno.ENFILE),
    ),
    Trouble(
        r"can't start new thread|Resource temporarily unavailable",
        "no further process or thread may be started",
        "raise their limit by ulimit -u, or take fewer by --set data.workers=0 and OMP_NUM_THREADS=1",
        (errno.EAGAIN,),
    ),
    Trouble(
        r"No space left on device|Disk quota exceeded",
        "the disk is full",
        "free some space there, or choose other folders by --store, QDBEV_CACHE and TMPDIR",
        (errno.ENOSPC, errno.EDQUOT),
    ),
)


def explained(error: BaseException) -> str | None:
    """What the machine lacks and what helps; None where it is not the machine's error, or has a remedy in it already.

    >>> explained(OSError(errno.EMFILE, "Too many open files", "/data/a.jpg"))[:54]
    'no file descriptors are left (/data/a.jpg): raise thei'
    """
    causes = list(_causes(error))
    for cause in causes:
        trouble = _trouble(cause)
        if trouble is not None:
            places = [place for place in map(_place, causes) if place]
            return f"{trouble.sentence}{f' ({places[0]})' if places else ''}: {trouble.remedy}"
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it, the last first; a sentence of our own that says what to do hides what led to it."""
    cause: BaseException | None = error
    for _ in range(_LONGEST_CHAIN):
        if cause is None or (isinstance(cause, ValueError) and "; " in str(cause)):
            return
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _trouble(error: BaseException) -> Trouble | None:
    """The kind of trouble that an error is of: by its number where it has one, otherwise by its words."""
    code = None if "/dev/shm" in f"{error} {_place(error)}" else getattr(error, "errno", None)
    if isinstance(error, MemoryError):
        code = errno.ENOMEM
    if code is not None:
        return next((trouble for trouble in TROUBLES if code in trouble.codes), None)
    if isinstance(error, LookupError | TypeError | AssertionError):
        return None
    return next((trouble for trouble in TROUBLES if re.search(trouble.words, str(error))), None)


def _place(error: BaseException) -> str | None:
    """The file of an error, where it names one."""
    name = getattr(error, "filename", None)
    return os.fsdecode(name) if isinstance(name, bytes | os.PathLike | str) else None
