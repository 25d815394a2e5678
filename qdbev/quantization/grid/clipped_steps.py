"""Fake quantization with the gradients that LSQ, LSQ+ and PACT print, to step, offset and clipping level.

* LSQ (Esser et al., ICLR 2020, Eq. 3): ``dy/dS`` is ``round(v) - v`` with ``v = x / S`` where ``n < v < p``, else the
  limit ``n`` or ``p`` that clamps
* LSQ+ (Bhalgat et al., CVPR Workshops 2020): ``y = S round(clamp((x - beta) / S, n, p)) + beta``; the same with
  ``v = (x - beta) / S``, and ``dy/dbeta`` is 0 where ``n < v < p``, else 1
* both: times ``1 / sqrt(N p)`` for the ``N`` elements of a step, for the step and the offset alike
* PACT (Choi et al., 2018, arXiv 1805.06085): ``y`` is ``clip(x, 0, alpha)`` on its grid, ``dy/dalpha`` is 1 where
  ``x >= alpha``, else 0; on signed values ``sign(x)`` where ``|x| >= alpha``

``dy/dx`` is 1 where nothing is clipped, else 0. What is clipped is asked before rounding, as printed;
``qdbev.quantization.grid.fake_quantize`` asks after it, so that what rounds to the last integer still counts as
inside. The values are the same. Backward keeps nothing but the real values here too, and a layer's function
(``qdbev.quantization.layers.products``) makes the values again and all gradients in one pass over memory, where
there is a compiled kernel for it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from qdbev.ops import Bytes
from qdbev.quantization.grid.fake_quantize import limits_of
from qdbev.quantization.grid.forms import Learned
from qdbev.quantization.grid.integers import align_scale, as_bytes, clamped_steps, in_steps, other_axes, shift
from qdbev.quantization.grid.kernels import cpu_kernel_for
from qdbev.quantization.grid.recomputation import close_saved, open_saved, remember
from qdbev.quantization.grid.rectifier import note_rectified


class Clipping(NamedTuple):
    """The form of fake quantization (``qdbev.quantization.grid.forms``) that clips before it rounds.

    Attributes:
        scale: one step, or one per channel of ``axis``, float32, without a gradient.
        axis: the channel axis of a per-channel step.
        low: smallest integer.
        high: largest integer.
        learned: the step, or PACT's clipping level, and the offset, each with its gradient; an offset may be None.
        steps_per_range: steps from 0 to the clipping level; None where the step itself is learned.
    """

    scale: Tensor
    axis: int | None
    low: int
    high: int
    learned: Learned
    steps_per_range: float | None = None

    @classmethod
    def stepped(cls, scale: Tensor, offset: Tensor | None, *, axis: int | None, low: int, high: int) -> Clipping:
        """That of LSQ and LSQ+, see ``fake_quantize_stepped``.

        Raises:
            ValueError: an unsigned grid with an offset.
        """
        if low == 0 and offset is not None:
            raise ValueError("an unsigned grid begins at zero and takes no offset, got one")
        return cls(scale.detach(), axis, low, high, (scale, offset))

    @classmethod
    def at_level(cls, alpha: Tensor, *, steps_per_range: float, low: int, high: int) -> Clipping:
        """That of PACT, see ``fake_quantize_clipped``."""
        return cls(alpha.detach() / steps_per_range, None, low, high, (alpha, None), steps_per_range)

    @property
    def offset(self) -> Tensor | None:
        """The value that integer 0 stands for; None where that is 0."""
        return self.learned[1]

    @property
    def watched(self) -> tuple[Tensor | None, ...]:
        """The tensors that have to stay as they are until the backward pass."""
        return self.learned

    def with_learned(self, learned: Learned) -> Clipping:
        """The same with other tensors in place of those that are learned."""
        return self._replace(learned=learned)

    def onto_grid(self, x: Tensor) -> Tensor:
        """Return ``S clamp(round((x - beta) / S)) + beta`` in the type of ``x``, without gradients."""
        limits: dict[str, Any] = {"scale": self.scale, "axis": self.axis, "low": self.low, "high": self.high}
        if self.offset is None:
            return clamped_steps(x, **limits, rescale=True).to(x.dtype)
        kernel = cpu_kernel_for(x, axis=self.axis)
        if kernel is not None:
            return kernel.onto_grid(x, **limits, rescale=True, offset=self.offset.item())
        offset = self.offset.detach()
        return clamped_steps(shift(x, offset=offset), **limits, rescale=True).add_(offset).to(x.dtype)

    def as_bytes(self, x: Tensor, *, signed: bool = False) -> Bytes | None:
        """Return the integers of ``onto_grid`` as the bytes that a CPU multiplies, which leave out the offset."""
        limits: dict[str, Any] = {"scale": self.scale, "axis": self.axis, "low": self.low, "high": self.high}
        return as_bytes(x, **limits, signed=signed, offset=self.offset)

    def apply(self, x: Tensor) -> Tensor:
        """Return ``onto_grid`` with gradients to ``x`` and to what is learned."""
        if not torch.is_grad_enabled():
            return self.onto_grid(x)
        if any(tensor is not None and tensor.requires_grad for tensor in (x, *self.learned)):
            result: Tensor = _Clipped.apply(x, *self.learned, self.with_learned((None, None)))
            return result
        watched = [tensor for tensor in self.watched if tensor is not None]
        return remember(self.onto_grid(x), x, *watched, recompute=lambda values, *_: self.onto_grid(values))

    def pass_back(self, grad_output: Tensor, x: Tensor, *, fresh: bool) -> tuple[Tensor, Learned]:
        """Return the gradient of ``x``, and the gradients of what is learned.

        ``fresh`` changes nothing: torch operations write into nothing here.
        """
        learned, offset = self.learned
        wanted = learned is not None and learned.requires_grad
        if learned is not None and self.steps_per_range is not None:
            least = 0 if self.low == 0 else -1
            with torch.no_grad():
                levels = in_steps(x, scale=learned.to(x.dtype))
            grad_input = _where_within(grad_output, steps=levels, low=least, high=1)
            clipped = (grad_output - grad_input).mul(levels.clamp(least, 1)) if wanted else None
            return grad_input, (None if clipped is None else clipped.sum(dtype=torch.float32), None)
        with torch.no_grad():
            steps = in_steps(shift(x, offset=offset), scale=align_scale(self.scale, ndim=x.ndim, axis=self.axis))
        grad_input = _where_within(grad_output, steps=steps, low=self.low, high=self.high)
        grad_scale = grad_offset = None
        if wanted:
            slope = _slope(steps, low=self.low, high=self.high)
            summed = (slope * grad_output).sum(other_axes(x.ndim, axis=self.axis))
            grad_scale = summed.mul_(self._share(x))
        if offset is not None and offset.requires_grad:
            grad_offset = (grad_output - grad_input).sum(dtype=torch.float32).mul_(self._share(x))
        return grad_input, (grad_scale, grad_offset)

    def recompute_and_pass_back(
        self, grad_output: Tensor, x: Tensor, *, rectified: bool
    ) -> tuple[Tensor, Tensor, Learned]:
        """Return ``onto_grid`` and ``pass_back`` of a fresh gradient, on a CPU in one pass over memory.

        ``rectified``, where integers are unsigned, lets it do the backward pass of the ReLU that made ``x`` as well.
        """
        kernel = cpu_kernel_for(x, axis=self.axis) if grad_output.dtype == x.dtype else None
        if kernel is None:
            return self.onto_grid(x), *self.pass_back(grad_output, x, fresh=True)
        learned, offset = self.learned
        at_level = learned is not None and self.steps_per_range is not None
        recomputed, grad_input, sums = kernel.recomputed_and_clipped_grads(
            grad_output,
            x,
            scale=self.scale,
            axis=self.axis,
            low=self.low,
            high=self.high,
            offset=0.0 if offset is None else offset.item(),
            level=learned.item() if learned is not None and at_level else None,
            rectified=rectified,
            in_place=True,
        )
        if rectified:
            note_rectified(grad_input)
        return recomputed, grad_input, self._grad_learned(x, sums)

    def _grad_learned(self, x: Tensor, sums: tuple[Tensor, Tensor, Tensor]) -> Learned:
        """The gradients of what is learned, from the sums of the kernel."""
        grad_scale, clipped_low, clipped_high = sums
        if self.steps_per_range is not None and self.learned[0] is not None:
            return clipped_high.sum() if self.low == 0 else (clipped_high - clipped_low).sum(), None
        grad_offset = None if self.offset is None else (clipped_high + clipped_low).sum() * self._share(x)
        return grad_scale * self._share(x), grad_offset

    def _share(self, x: Tensor) -> float:
        """LSQ's ``1 / sqrt(N p)``, with ``N`` elements to a step."""
        share: float = (x.numel() / self.scale.numel() * self.high) ** -0.5 if x.numel() else 0.0
        return share


class _Clipped(torch.autograd.Function):
    """Keeps the real values and what is learned."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, learned: Tensor | None, offset: Tensor | None, clipping: Clipping) -> Tensor:
        ctx.save_for_backward(x, learned, offset)
        ctx.clipping, ctx.recompute = clipping, _recompute
        return clipping.with_learned((learned, offset)).onto_grid(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, *learned = close_saved(ctx)
        grad_input, grads = ctx.clipping.with_learned(tuple(learned)).pass_back(gradients[0], x, fresh=False)
        return grad_input, *grads, None


def _recompute(ctx: Any) -> Tensor:
    x, *learned = open_saved(ctx)
    recomputed: Tensor = ctx.clipping.with_learned(tuple(learned)).onto_grid(x)
    return recomputed


@torch.no_grad()
def _slope(steps: Tensor, *, low: int, high: int) -> Tensor:
    """Return ``dy/dS``: the integer, less the steps where they lie within."""
    return steps.round().clamp_(low, high).sub_(_where_within(steps, steps=steps, low=low, high=high))


def _where_within(values: Tensor, *, steps: Tensor, low: int, high: int) -> Tensor:
    """Return values where ``low < steps < high``, else zero; on an unsigned grid zero steps lie within as well.

    The backward pass of a clamp does it, which is faster than a mask.
    """
    floor = -torch.finfo(steps.dtype).tiny if low == 0 else low
    result: Tensor = torch.ops.aten.hardtanh_backward(values.to(steps.dtype), steps, floor, high)
    return result.to(values.dtype)


def fake_quantize_stepped(
    x: Tensor,
    *,
    scale: Tensor,
    bits: int,
    offset: Tensor | None = None,
    axis: int | None = None,
    narrow_range: bool = False,
    unsigned: bool = False,
) -> Tensor:
    """Return ``dequantize(quantize_int(x))`` in the type of ``x``, with the gradients of LSQ and LSQ+.

    Args:
        x: Real values, any shape.
        scale: One step, or one per channel of ``axis``, positive float32.
        bits: Width of the integers.
        offset: The value that integer 0 stands for, one element; None means 0.
        axis: The channel axis of a per-channel step.
        narrow_range: Leave out the most negative integer.
        unsigned: Take negative values for 0, before all else; not beside an offset.

    Raises:
        ValueError: ``unsigned`` beside an offset.

    >>> scale, offset = torch.tensor(2.0, requires_grad=True), torch.tensor(1.0, requires_grad=True)
    >>> y = fake_quantize_stepped(torch.tensor([5.9, 41.0]), scale=scale, offset=offset, bits=4)
    >>> y.sum().backward()
    >>> y.tolist(), round(scale.grad.item(), 4), round(offset.grad.item(), 4)  # (2 - 2.45 + 7) and 1, / sqrt(2 * 7)
    ([5.0, 15.0], 1.7506, 0.2673)
    """
    low, high = limits_of(bits, narrow_range=narrow_range, unsigned=unsigned)
    return Clipping.stepped(scale, offset, axis=axis, low=low, high=high).apply(x)


def fake_quantize_clipped(
    x: Tensor,
    *,
    alpha: Tensor,
    steps_per_range: float,
    bits: int,
    narrow_range: bool = False,
    unsigned: bool = False,
) -> Tensor:
    """Return ``x`` on the grid whose step is ``alpha / steps_per_range``, with the gradients of PACT.

    Args:
        x: Real values, any shape.
        alpha: The clipping level, one positive element, float32.
        steps_per_range: Steps from 0 to ``alpha`` (``qdbev.quantization.grid.integers.steps_per_range``).
        bits: Width of the signed integers.
        narrow_range: Leave out the most negative integer.
        unsigned: Take negative values for 0, before all else: the grid is ``[0, alpha]``.

    >>> alpha = torch.tensor(15.0, requires_grad=True)
    >>> x = torch.tensor([4.9, 40.0, -16.0, -40.0, 15.0], requires_grad=True)
    >>> y = fake_quantize_clipped(x, alpha=alpha, steps_per_range=7.5, bits=4)
    >>> (y * torch.tensor([1.0, 3.0, 1.0, 1.0, 1.0])).sum().backward()
    >>> y.tolist(), alpha.grad.item(), x.grad.tolist()  # 3 - 1 - 1 + 1
    ([4.0, 14.0, -16.0, -16.0, 14.0], 2.0, [1.0, 0.0, 0.0, 0.0, 0.0])
    """
    low, high = limits_of(bits, narrow_range=narrow_range, unsigned=unsigned)
    return Clipping.at_level(alpha, steps_per_range=steps_per_range, low=low, high=high).apply(x)
