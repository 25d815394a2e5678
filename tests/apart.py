"""The command, or a function, in a process of its own that starts in a moment: a server has imported all, and forks.

What torch and mmdet3d take to import would be most of such a test. Each process is real: it can be killed.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_SERVER = multiprocessing.get_context("forkserver")
_IMPORTED = (
    *("cv2", "qdbev_cli.app", "pipelines.scoring.evaluation", "pipelines.training.distillation"),
    # what commands import once they run: kernels that numba compiles, and what torch and accelerate put off
    *("qdbev.ops.deformable_attention_cpu", "qdbev.quantization.grid.cpu", "torch._dynamo", "torch.utils.tensorboard"),
)


def start(words: list[str], *, output: Path | None = None, **environment: object) -> BaseProcess:
    """Start ``qdbev`` with these words.

    Args:
        words: Of the command line.
        output: What it prints is added to this file, and what goes wrong to the one beside it, ``.errors``.
        environment: Variables on top of those that are set now.
    """
    return start_call(_command, words, output, environment=environment)


def start_two(words: list[str], *, output: Path | None = None) -> list[BaseProcess]:
    """Start ``qdbev`` in two processes that know of each other, as torchrun starts them."""
    return two(lambda **environment: start(words, output=output, **environment))


def two(started: Callable[..., BaseProcess]) -> list[BaseProcess]:
    """What two calls start, with the variables by which torchrun lets processes find each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "CUDA_VISIBLE_DEVICES": ""}
    return [started(RANK=rank, LOCAL_RANK=rank, **shared) for rank in range(2)]


def start_call(
    target: Callable[..., None], *arguments: Any, environment: Mapping[str, object] | None = None, **options: Any
) -> BaseProcess:
    """Start a function of a module; its variables are those of now and those of ``environment``."""
    _SERVER.set_forkserver_preload([*_IMPORTED])
    wanted = dict(os.environ) | {name: str(value) for name, value in (environment or {}).items()}
    process = _SERVER.Process(target=_call, args=(wanted, target, arguments, options))
    process.start()
    return process


def exit_code(process: BaseProcess, *, timeout_s: float = 600) -> int | None:
    """Wait for the end of a process: 0, minus the signal that killed it, or None where it is still running."""
    process.join(timeout_s)
    return process.exitcode


def _call(
    environment: dict[str, str], target: Callable[..., None], arguments: Sequence[Any], options: dict[str, Any]
) -> None:
    import cv2
    import torch

    gc.freeze()  # what the server has imported stays to the end: one look through it takes 0.4 s
    os.environ.update(environment)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    target(*arguments, **options)


def _command(words: list[str], output: Path | None) -> None:
    from qdbev_cli.app import app

    printed, errors = (output, output.with_suffix(".errors")) if output else (Path(os.devnull),) * 2
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(stack.enter_context(printed.open("a"))))
        stack.enter_context(contextlib.redirect_stderr(stack.enter_context(errors.open("a"))))
        app(words)
