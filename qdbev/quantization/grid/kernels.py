"""The compiled kernels of fake quantization: what they do, and which of them can work on a tensor.

They are ``qdbev.quantization.grid.cpu``, compiled by numba, and ``qdbev.quantization.grid.triton``. Where neither
can, torch operations give the same numbers.
"""

from __future__ import annotations

import functools
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from qdbev.ops import has_cpu_kernel, has_triton

_PLAIN = (Tensor, nn.Parameter)


class Kernels(Protocol):
    """What the kernels of every device do; ``x`` and the gradient are of one type."""

    @property
    def TYPES(self) -> tuple[torch.dtype, ...]:
        """Types of ``x``."""
        ...

    def onto_grid(self, x: Tensor, *, scale: Tensor, axis: int | None, low: int, high: int, rescale: bool) -> Tensor:
        """Return ``clamp(round(x / scale), low, high)``, times ``scale`` if ``rescale``."""
        ...

    def grad_input(
        self,
        grad_output: Tensor,
        x: Tensor,
        *,
        scale: Tensor,
        axis: int | None,
        low: int,
        high: int,
        in_place: bool = False,
    ) -> Tensor:
        """Return the gradient where ``x`` was not clamped, else zero; negative ``x`` were where ``low`` is 0.

        ``in_place`` lets it write into the gradient of the output.
        """
        ...

    def grad_input_and_log_scale(
        self,
        grad_output: Tensor,
        x: Tensor,
        *,
        scale: Tensor,
        axis: int | None,
        low: int,
        high: int,
        in_place: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Return ``grad_input``, and per scale the gradient of its logarithm, without LSQ's factor."""
        ...


class CpuKernels(Kernels, Protocol):
    """What the kernels of a CPU do beside; see ``qdbev.quantization.grid.cpu``."""

    def onto_grid(
        self, x: Tensor, *, scale: Tensor, axis: int | None, low: int, high: int, rescale: bool, offset: float = 0.0
    ) -> Tensor:
        """As those of every device, on a grid moved by ``offset``."""
        ...

    def onto_bytes(
        self, x: Tensor, *, scale: Tensor, axis: int | None, low: int, high: int, zero: int, offset: float = 0.0
    ) -> Tensor | None:
        """Return the integers plus ``zero`` as uint8; None if any of ``x`` is no number."""
        ...

    def recomputed_and_grads(
        self,
        grad_output: Tensor,
        x: Tensor,
        *,
        scale: Tensor,
        axis: int | None,
        low: int,
        high: int,
        learned: bool,
        rectified: bool = False,
        in_place: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return ``x`` on the grid and ``grad_input_and_log_scale`` in one pass; no last if not ``learned``."""
        ...

    def recomputed_and_clipped_grads(
        self,
        grad_output: Tensor,
        x: Tensor,
        *,
        scale: Tensor,
        axis: int | None,
        low: int,
        high: int,
        offset: float,
        level: float | None,
        rectified: bool = False,
        in_place: bool = False,
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
        """The same where clipping is asked before rounding; sums per scale: its gradient, clipped low, clipped high."""
        ...


AnyKernels = TypeVar("AnyKernels", bound=Kernels)


def kernel_for(x: Tensor, *, axis: int | None) -> Kernels | None:
    """Return the compiled kernels that can work on ``x``, else None: torch operations do it then.

    Args:
        x: Plain values, see ``is_plain``.
        axis: The channel axis of a per-channel scale.
    """
    if x.is_cuda:
        return _fitting(_gpu_kernels(), x, axis=axis) if is_plain(x) else None
    return cpu_kernel_for(x, axis=axis)


def cpu_kernel_for(x: Tensor, *, axis: int | None) -> CpuKernels | None:
    """Return those of ``kernel_for`` where ``x`` lies on a CPU, else None."""
    return _fitting(_cpu_kernels(), x, axis=axis) if x.is_cpu and is_plain(x) else None


def is_plain(x: Tensor) -> bool:
    """Whether these are values, not what a compiler, exporter or fake mode puts in their place."""
    return type(x) in _PLAIN and not torch.compiler.is_compiling() and not torch.jit.is_tracing()


@functools.cache
def _cpu_kernels() -> CpuKernels | None:
    if not has_cpu_kernel():
        return None
    from qdbev.quantization.grid import cpu

    return cpu


@functools.cache
def _gpu_kernels() -> Kernels | None:
    if not has_triton():
        return None
    from qdbev.quantization.grid import triton

    return triton


def _fitting(kernels: AnyKernels | None, x: Tensor, *, axis: int | None) -> AnyKernels | None:
    """The kernels, if they can work on ``x``."""
    fits = kernels is not None and x.dtype in kernels.TYPES and _lies_in_rows(x, axis=axis)
    return kernels if fits else None


def _lies_in_rows(x: Tensor, *, axis: int | None) -> bool:
    """Whether ``x`` fills its memory without gaps, and where there is an axis each channel lies in one."""
    if not x.numel():
        return False
    if x.is_contiguous():
        return True
    if x.ndim == 4 and axis in (None, 0) and x.is_contiguous(memory_format=torch.channels_last):
        return True
    return axis is None and x.ndim > 1 and x.transpose(0, 1).is_contiguous()
