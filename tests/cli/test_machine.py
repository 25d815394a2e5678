"""What the machine lacks is a sentence with a remedy and exit code 3, whichever library says it and in what words."""

from __future__ import annotations

import errno
import os
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest
import torch
import typer

from pipelines.reporting.outcome import Outcome
from pipelines.store.artifacts import StoreUnwritable, UnusableInput
from qdbev_cli import machine
from qdbev_cli.console import exit_code, guarded

CAUGHT = "Caught {} in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File ...\n{}"


def of_system(code: int, *names: str) -> OSError:
    return OSError(code, os.strerror(code), *names)


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def real_array_error() -> Exception:
    try:
        np.zeros(1 << 55, np.float64)
    except MemoryError as error:
        return error
    raise AssertionError


def real_tensor_error() -> Exception:
    try:
        torch.empty(1 << 55)
    except RuntimeError as error:
        return error
    raise AssertionError


SHM = "unable to write to file </torch_4711_1_0>: No space left on device (28)"
BUS = (
    "DataLoader worker (pid 4711) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
)


@pytest.mark.parametrize(
    ("error", "said", "remedy"),
    [
        (RuntimeError(SHM), "/dev/shm is too small", "data.workers=0"),
        (RuntimeError(BUS + "shared memory."), "/dev/shm is too small", "--shm-size"),
        (of_system(errno.ENOSPC, "/dev/shm/torch_1"), "/dev/shm is too small", "data.workers=0"),
        (RuntimeError(CAUGHT.format("RuntimeError", f"RuntimeError: {SHM}")), "/dev/shm is too small", "data.workers"),
        (of_system(errno.ENOSPC, "/data/x.json"), "the disk is full (/data/x.json)", "--store, QDBEV_CACHE"),
        (of_system(errno.EDQUOT), "the disk is full", "free some space"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "the disk is full", ""),
        (of_system(errno.EMFILE, "/data/a.jpg"), "no file descriptors are left (/data/a.jpg)", "ulimit -n"),
        (of_system(errno.ENFILE), "no file descriptors are left", "ulimit -n"),
        (RuntimeError("received 0 items of ancdata"), "no file descriptors are left", "data.workers=0"),
        (UnusableInput("[Errno 24] Too many open files: '/data/a.jpg'"), "no file descriptors are left", "ulimit"),
        (caused(UnusableInput("/data/a.jpg: Too many open files"), of_system(errno.EMFILE, "/data/a.jpg")),
         "no file descriptors are left (/data/a.jpg)", "ulimit"),
        (MemoryError(), "there is no memory left", "qat.batch_size=1"),
        (real_array_error(), "there is no memory left", "qat.batch_size=1"),
        (real_tensor_error(), "there is no memory left", "data.workers=0"),
        (of_system(errno.ENOMEM), "there is no memory left", "batch"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "there is no memory left", "batch"),
        (RuntimeError("std::bad_alloc"), "there is no memory left", "batch"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to"), "the GPU has no memory", "--device"),
        (RuntimeError("DataLoader worker (pid 9) is killed by signal: Killed. "), "was killed", "data.workers=0"),
        (BrokenProcessPool("A process in the process pool was terminated abruptly while the future was running"),
         "was killed", "memory"),
        (RuntimeError("can't start new thread"), "no further process or thread", "ulimit -u"),
        (of_system(errno.EAGAIN), "no further process or thread", "ulimit -u"),
        (caused(RuntimeError("training failed"), MemoryError()), "there is no memory left", "batch"),
    ],
)  # fmt: skip
def test_what_is_lacking_is_said_with_what_helps(
    capsys: pytest.CaptureFixture[str], error: Exception, said: str, remedy: str
) -> None:
    def fail() -> Outcome:
        raise error

    with pytest.raises(typer.Exit) as caught:
        guarded(fail, as_json=False)
    [sentence] = capsys.readouterr().err.splitlines()
    assert caught.value.exit_code == 3
    assert sentence.startswith("qdbev: ") and said in sentence and remedy in sentence


@pytest.mark.parametrize(
    "error",
    [
        KeyError("No space left on device"),
        TypeError("out of memory"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("quantization.weight_bits is 9"),
        OSError(errno.ENOENT, "No such file", "/x"),
        AssertionError("shared memory"),
    ],
)
def test_what_is_not_the_machines_keeps_its_own_meaning(error: Exception) -> None:
    assert machine.explained(error) is None


@pytest.mark.parametrize(
    "text",
    [
        "the store runs cannot be written: the disk is full. Nothing was sealed; free some space",
        "teacher features cannot be written to x (No space left on device); name another folder with data.cache",
    ],
)
def test_a_sentence_that_has_a_remedy_stays(text: str) -> None:
    error = caused(StoreUnwritable(text), of_system(errno.ENOSPC))
    assert machine.explained(error) is None and exit_code(error) == 3
