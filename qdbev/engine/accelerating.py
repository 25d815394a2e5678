"""One accelerate Accelerator per training: device, precision, processes, trackers that get the curve as it grows."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.tracking import GeneralTracker, MLflowTracker, TensorBoardTracker, WandBTracker
from accelerate.utils import DistributedDataParallelKwargs

Precision = Literal["no", "bf16", "fp16"]
Tracker = Literal["tensorboard", "wandb", "mlflow"]
"""Names as accelerate and their packages have them: TensorBoard, Weights & Biases, MLflow."""
_PROJECT = "qdbev"


def open_accelerator(
    *,
    device: str,
    precision: Precision,
    accumulation: int,
    find_unused_parameters: bool,
) -> Accelerator:
    """Make an Accelerator; under ``torchrun`` or ``accelerate launch`` it joins the other processes.

    accelerate keeps its settings for the whole process and refuses a second training with others, so what an earlier
    training left is cleared first; the process group stays.

    Args:
        device: "auto" (CUDA if there is one), "cpu", "cuda" or "cuda:1".
        precision: Autocast precision; "fp16" scales the loss and needs CUDA.
        accumulation: Batches per optimiser step and process.
        find_unused_parameters: DDP looks for parameters the loss does not reach.

    Returns:
        The accelerator.

    Raises:
        ValueError: An unknown precision, a device that is not there, or fp16 on the CPU.
    """
    cpu = _chooses_cpu(device)
    if precision not in get_args(Precision):
        raise ValueError(f"precision {precision!r}: expected one of {', '.join(get_args(Precision))}")
    if precision == "fp16" and cpu:
        raise ValueError("precision 'fp16' needs a CUDA device: use 'bf16' or 'no' on the CPU")
    _clear_former_settings()
    return Accelerator(
        cpu=cpu,
        mixed_precision=precision,
        gradient_accumulation_steps=accumulation,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=find_unused_parameters)],
    )


def _chooses_cpu(device: str) -> bool:
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device {device!r}: expected auto, cpu, cuda or cuda:<number>")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {device!r}: torch sees {torch.cuda.device_count()} CUDA devices; use cpu or auto")
    if index and kind == "cuda":
        torch.cuda.set_device(int(index))
    return kind == "cpu" or not torch.cuda.is_available()


def _clear_former_settings() -> None:
    alone = not PartialState._shared_state or PartialState().num_processes == 1
    AcceleratorState._reset_state(reset_partial_state=alone)
    GradientState._reset_state()


def refuse_absent(trackers: Sequence[Tracker]) -> None:
    """Refuse trackers whose package is not installed; of itself accelerate would leave them out without a word.

    Args:
        trackers: Each has the name of its package.

    Raises:
        ValueError: Naming the packages that are missing.
    """
    absent = [tracker for tracker in trackers if not _is_installed(tracker)]
    if absent:
        names = " and ".join(absent)
        verb = "is" if len(absent) == 1 else "are"
        raise ValueError(f"log_with names {names}, which {verb} not installed: `pip install {' '.join(absent)}`")


def _is_installed(package: str) -> bool:
    """A folder ``wandb`` with no code in it, which Weights & Biases writes, is no package."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


def open_trackers(accelerator: Accelerator, *, trackers: Sequence[Tracker], folder: Path, step: int) -> None:
    """Open the trackers of a training, which accelerate writes the curve to from then on.

    Args:
        accelerator: Of the training.
        trackers: Which.
        folder: TensorBoard's files; its name is the run's name everywhere. A training that begins empties it.
        step: Steps done. What a killed run wrote of later ones is hidden.

    Raises:
        ValueError: See ``refuse_absent``.
    """
    refuse_absent(trackers)
    if step == 0 and accelerator.is_main_process:
        shutil.rmtree(folder, ignore_errors=True)
    accelerator.log_with = [_OPENING[tracker](folder, step) for tracker in trackers]
    accelerator.init_trackers(_PROJECT)


def _tensorboard(folder: Path, step: int) -> GeneralTracker:
    return TensorBoardTracker(folder.name, folder.parent, purge_step=step + 1)


def _wandb(folder: Path, _step: int) -> GeneralTracker:
    return WandBTracker(_PROJECT, name=folder.name)


def _mlflow(folder: Path, _step: int) -> GeneralTracker:
    return MLflowTracker(_PROJECT, run_name=folder.name)


_OPENING: Mapping[Tracker, Callable[[Path, int], GeneralTracker]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
}
