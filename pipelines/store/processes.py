"""Several processes under torchrun or slurm: the first one looks and writes, all of them go on with what it found.

One process alone pays nothing for it: torch is imported only where there are more.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import subprocess
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar, cast

from pipelines.store.integrity import UnusableInput

T = TypeVar("T")
_PATIENCE = timedelta(hours=12)  # the others wait while the first one generates scenes or scores
_PORT = "29500"
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # what mallopt(3) calls M_TRIM_THRESHOLD and M_MMAP_THRESHOLD
_FILES, _FILES_OF_WORKER = 64, 16  # that a command has open, and that each loading process adds
_LARGE, _LARGE_BEFORE = 1 << 30, 32 << 20  # bytes; the second is what old versions of glibc allow at most


def count() -> int:
    """How many processes run this command together, by the launcher's word."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def number() -> int:
    """Which of them this one is, from 0."""
    return int(os.environ.get("RANK", "0"))


def misstated() -> str:
    """What is wrong with what a launcher, or a shell that remembers one, says of the processes; empty where nothing."""
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        if not (stated := os.environ.get(name, "0")).isdecimal():
            return f"{name} is {stated!r}, where a launcher says a whole number; unset it, or start by torchrun"
    if number() >= count():
        return f"RANK is {number()} of WORLD_SIZE {count()}, which counts from 0; unset both, or start by torchrun"
    return ""


def in_key() -> dict[str, int]:
    """What of this decides a training: several processes see a batch each; one alone leaves the key as it is."""
    return {"processes": count()} if count() > 1 else {}


def device(kind: str) -> str:
    """The device of this process where the profile means any of a kind: each has a GPU of its own.

    Args:
        kind: ``cpu`` or ``cuda``.
    """
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if kind == "cuda" and count() > 1 else kind


def is_first() -> bool:
    """Whether this one writes and prints."""
    return number() == 0


def join(*, device: str) -> None:
    """Meet the other processes, if there are any; they then talk by gloo on the CPU and by NCCL on GPUs.

    Args:
        device: The profile's word; ``cpu`` keeps to the CPU where there are GPUs.
    """
    if count() > 1:
        import torch
        from accelerate import PartialState

        PartialState(cpu=device == "cpu" or not torch.cuda.is_available(), timeout=_PATIENCE)


def keep_freed_memory() -> None:
    """Let this process keep what it frees instead of handing it back to the system, which every step asks for again.

    Each page handed out again must be cleared first. In a training step of nano on a CPU a tenth of the time went into
    that. The memory taken at most is the same. Where the C library is not glibc, nothing is done.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_TRIM_THRESHOLD, -1)
    if not mallopt(_MMAP_THRESHOLD, _LARGE):
        mallopt(_MMAP_THRESHOLD, _LARGE_BEFORE)


def open_many_files(*, workers: int) -> None:
    """Let this process open as many files as the system allows; loading processes send every batch through some.

    Where there are too few, torch's loaders wait for ever.

    Args:
        workers: Loading processes there will be.

    Raises:
        UnusableInput: Fewer may be open than these take.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    least = _FILES + _FILES_OF_WORKER * workers
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if workers and limit != resource.RLIM_INFINITY and limit < least:
        raise UnusableInput(
            f"{limit} files may be open at once, {workers} loading processes take up to {least}: raise the limit by "
            "ulimit -n 65536, or load in the process itself by --set data.workers=0"
        )


def launched_by_slurm() -> None:
    """Say in torchrun's words what slurm says of the tasks of an ``srun``; the first host is where they meet.

    Raises:
        ValueError: This is no task of slurm.
    """
    names = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_NTASKS", "LOCAL_RANK": "SLURM_LOCALID"}
    if absent := [name for name in names.values() if name not in os.environ]:
        raise ValueError(f"--launcher slurm needs {', '.join(absent)}, which srun sets: start the command by srun")
    os.environ.update({own: os.environ[name] for own, name in names.items()})
    os.environ.setdefault("MASTER_PORT", _PORT)
    if "MASTER_ADDR" not in os.environ:
        os.environ["MASTER_ADDR"] = _first_host(os.environ.get("SLURM_STEP_NODELIST", "localhost"))


def _first_host(nodes: str) -> str:
    if not set(nodes) & set(",["):
        return nodes
    listed = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
    return listed.stdout.split()[0]


def agreed(value: Callable[[], T]) -> T:
    """What the first process finds, in every process; what it raises is raised in every process."""
    if count() == 1:
        return value()
    from accelerate.utils import broadcast_object_list

    found: list[object] = [None, None]
    if is_first():
        try:
            found[0] = value()
        except Exception as error:  # the others would wait for ever
            found[1] = error
    broadcast_object_list(found)
    if isinstance(found[1], Exception):
        raise found[1]
    return cast(T, found[0])


def gathered(mine: T) -> list[T]:
    """What every process has, in their order, in every process."""
    if count() == 1:
        return [mine]
    from accelerate.utils import gather_object

    found: list[T] = gather_object([mine])
    return found


def share(whole: list[T]) -> list[T]:
    """The entries of a list that are this process's to do: each takes every n-th of n processes.

    >>> share(["a", "b", "c"])
    ['a', 'b', 'c']
    """
    return whole[number() :: count()]
