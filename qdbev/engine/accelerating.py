"""Devices, precision, processes: one Hugging Face Accelerator per training, on the CPU or on CUDA devices."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration

Precision = Literal["no", "bf16", "fp16"]


def open_accelerator(
    *,
    device: str,
    precision: Precision,
    accumulation: int,
    scratch: Path,
    tensorboard: bool,
    find_unused_parameters: bool,
) -> Accelerator:
    """Make an Accelerator; under ``torchrun`` or ``accelerate launch`` it joins the other processes.

    accelerate keeps its settings for the whole process and refuses a second training with others, so what an earlier
    training left is cleared first; the process group stays.

    Args:
        device: "auto" (CUDA if there is one), "cpu", "cuda" or "cuda:1".
        precision: Autocast precision; "fp16" scales the loss and needs CUDA.
        accumulation: Batches per optimiser step and process.
        scratch: TensorBoard files go to ``scratch/tensorboard``.
        tensorboard: Write TensorBoard files.
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
        log_with="tensorboard" if tensorboard else None,
        project_config=ProjectConfiguration(project_dir=str(scratch), logging_dir=str(scratch)),
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
