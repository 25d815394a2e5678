"""What the two forms of fake quantization have in common: rounding at a scale, and clipping before rounding."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from qdbev.ops import Bytes

Learned = tuple[Tensor | None, Tensor | None]
"""What a quantizer learns, or the gradients of that: the scale in one form or another, and the offset."""


class FakeQuantization(Protocol):
    """What a quantizer does with a tensor.

    It is a ``qdbev.quantization.grid.fake_quantize.Rounding``, or a
    ``qdbev.quantization.grid.clipped_steps.Clipping`` where what is clipped is asked before rounding.
    """

    @property
    def scale(self) -> Tensor:
        """One scale, or one per channel of the axis, float32, without a gradient."""
        ...

    @property
    def axis(self) -> int | None:
        """The channel axis of a per-channel scale."""
        ...

    @property
    def low(self) -> int:
        """Smallest integer."""
        ...

    @property
    def high(self) -> int:
        """Largest integer."""
        ...

    @property
    def learned(self) -> Learned:
        """What is learned, each with its gradient."""
        ...

    @property
    def watched(self) -> tuple[Tensor | None, ...]:
        """The tensors that have to stay as they are until the backward pass."""
        ...

    @property
    def offset(self) -> Tensor | None:
        """The value that integer 0 stands for; None where that is 0."""
        ...

    def with_learned(self, learned: Learned) -> FakeQuantization:
        """The same with other tensors in place of those that are learned."""
        ...

    def onto_grid(self, x: Tensor) -> Tensor:
        """Return ``x`` on the grid, in its own type, without gradients."""
        ...

    def as_bytes(self, x: Tensor, *, signed: bool = False) -> Bytes | None:
        """Return the integers of ``onto_grid`` as the bytes that a CPU multiplies, without the offset, or None."""
        ...

    def apply(self, x: Tensor) -> Tensor:
        """Return ``onto_grid`` with gradients to ``x`` and to what is learned."""
        ...

    def pass_back(self, grad_output: Tensor, x: Tensor, *, fresh: bool) -> tuple[Tensor, Learned]:
        """Return the gradient of ``x``, and the gradients of what is learned.

        ``fresh`` lets it write into the gradient of the output.
        """
        ...

    def recompute_and_pass_back(
        self, grad_output: Tensor, x: Tensor, *, rectified: bool
    ) -> tuple[Tensor, Tensor, Learned]:
        """Return ``onto_grid`` and ``pass_back`` of a fresh gradient, on a CPU in one pass over memory.

        ``rectified``, where integers are unsigned, lets it do the backward pass of the ReLU that made ``x`` as well.
        """
        ...
