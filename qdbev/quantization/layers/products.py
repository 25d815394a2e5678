"""A linear layer or a convolution on quantized input and weight, as one function of autograd.

Composed of two quantizers and a layer, a training step passes through three functions with all that keeps quantized
tensors from being stored (``qdbev.quantization.grid.recomputation``), and a layer on a small tensor spends most of
its time between them. Here one function quantizes, multiplies, and in its backward pass makes the gradient of the input
first, so that one pass over memory makes the quantized input again and lets that gradient through. It keeps what a
float layer keeps. Whatever it is not made for is composed.

Where a CPU multiplies bytes (``qdbev.ops.integer_weight_bits``), a large product is that of the integers
themselves, as it is when the model is deployed: faster than that of the float values which stand for them, and closer
to the true one. What lies within one rounding of a tie may then fall on its other side a layer later, so that a run is
not repeated to the bit by a CPU that multiplies float values; ``float_products`` asks any to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from qdbev.ops import Bytes, integer_products, integer_weight_bits
from qdbev.quantization.grid.forms import FakeQuantization
from qdbev.quantization.grid.kernels import is_plain
from qdbev.quantization.grid.recomputation import recomputing
from qdbev.quantization.grid.rectifier import is_rectified
from qdbev.quantization.layers.quantizer import Quantizer

_WORTH = 1 << 23  # multiplications from which on integers are worth packing
_WHOLE_GROUP = 16  # oneDNN's quick kernels for groups take multiples of it, in and out; some others are plain loops
_LONGEST = 1 << 16  # of the largest bytes, so many products have a sum of 32 bits
_FLOAT_PRODUCTS = ContextVar("_FLOAT_PRODUCTS", default=False)


class Product(Protocol):
    """What a layer does with input and weight once they are quantized, and the gradients of that."""

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The output."""
        ...

    def of_bytes(self, x: Bytes, weight: Bytes, bias: Tensor | None, offset: Tensor | None) -> Tensor:
        """The output, from integers; their zero stands for the offset."""
        ...

    def to_input(self, gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """The gradient of the input, a new tensor; of ``x`` only the shape is looked at."""
        ...

    def to_weight(self, gradient: Tensor, x: Tensor, weight: Tensor, *, bias: bool) -> tuple[Tensor, Tensor | None]:
        """The gradient of the weight, a new tensor, and that of the bias; of ``weight`` only the shape is looked at."""
        ...


class Linear(NamedTuple):
    """``F.linear``."""

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """See ``Product``."""
        return F.linear(x, weight, bias)

    def of_bytes(self, x: Bytes, weight: Bytes, bias: Tensor | None, offset: Tensor | None) -> Tensor:
        """See ``Product``."""
        return integer_products.linear(x, weight, bias, offset=offset)

    def to_input(self, gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """See ``Product``."""
        return (gradient.reshape(-1, weight.shape[0]) @ weight).view(x.shape)

    def to_weight(self, gradient: Tensor, x: Tensor, weight: Tensor, *, bias: bool) -> tuple[Tensor, Tensor | None]:
        """See ``Product``."""
        rows = gradient.reshape(-1, weight.shape[0])
        return rows.t() @ x.reshape(-1, weight.shape[1]), rows.sum(0) if bias else None


class Convolution(NamedTuple):
    """``F.conv2d`` with zeros around the input."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """See ``Product``."""
        return torch.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def of_bytes(self, x: Bytes, weight: Bytes, bias: Tensor | None, offset: Tensor | None) -> Tensor:
        """See ``Product``."""
        return integer_products.convolution(x, weight, bias, offset=offset, **self._asdict())

    def to_input(self, gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """See ``Product``."""
        return self._backward(gradient, x, weight, wanted=(True, False, False))[0]

    def to_weight(self, gradient: Tensor, x: Tensor, weight: Tensor, *, bias: bool) -> tuple[Tensor, Tensor | None]:
        """See ``Product``."""
        _, grad_weight, grad_bias = self._backward(gradient, x, weight, wanted=(False, True, bias))
        return grad_weight, grad_bias if bias else None

    def _backward(
        self, gradient: Tensor, x: Tensor, weight: Tensor, *, wanted: tuple[bool, bool, bool]
    ) -> tuple[Tensor, ...]:
        sizes, place = [weight.shape[0]] if wanted[2] else None, (self.stride, self.padding, self.dilation)
        grads: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
            gradient, x, weight, sizes, *place, False, (0, 0), self.groups, wanted
        )
        return grads


class Layer(Protocol):
    """What is read of a quantized layer; a quantizer is None where the plan says float."""

    @property
    def weight(self) -> Tensor:
        """The float weight, output channels first."""
        ...

    @property
    def bias(self) -> Tensor | None:
        """The bias, if there is one."""
        ...

    @property
    def input_quantizer(self) -> Quantizer | None:
        """What the input goes through."""
        ...

    @property
    def weight_quantizer(self) -> Quantizer | None:
        """What the weight goes through."""
        ...


def composed(forward: Callable[[Tensor, Tensor, Tensor | None], Tensor], x: Tensor, layer: Layer) -> Tensor:
    """Return ``forward(x, weight, bias)`` of a layer with its quantizers one after the other before it."""
    quantized = x if layer.input_quantizer is None else layer.input_quantizer(x)
    weight = layer.weight if layer.weight_quantizer is None else layer.weight_quantizer(layer.weight)
    with recomputing():
        return forward(quantized, weight, layer.bias)


def quantized_product(product: Product, x: Tensor, layer: Layer) -> Tensor:
    """Return a layer's product of ``x``, both quantized.

    The numbers are those of ``composed``, bit for bit, where float values are multiplied, and so are the gradients,
    where tensors lie in memory without gaps; elsewhere, and for what a quantizer learns, which are sums over all
    elements, they are up to the order of sums. It is composed where a quantizer is missing, off or hooked; for a single
    vector, under autocast, in a graph that is compiled or exported, and on a GPU, where this has not been tried.
    """
    weight = layer.weight
    roundings = _roundings(x, weight, layer)
    if roundings is None:
        return composed(product.forward, x, layer)
    of_input, of_weight = roundings
    how = _How(of_input, of_weight, product, rectified=of_input.low == 0 and is_rectified(x))
    if not torch.is_grad_enabled():
        return _multiplied(x, weight, layer.bias, how)
    result: Tensor = _Product.apply(x, weight, layer.bias, *of_input.learned, *of_weight.learned, how)
    return result


def _roundings(x: Tensor, weight: Tensor, layer: Layer) -> tuple[FakeQuantization, FakeQuantization] | None:
    """How the quantizers round at the moment; None where it has to be composed."""
    of_input, of_weight = layer.input_quantizer, layer.weight_quantizer
    if of_input is None or of_weight is None or not (x.is_cpu and x.ndim > 1 and x.numel()):
        return None
    if torch.is_autocast_enabled("cpu") or not (is_plain(x) and is_plain(weight)):
        return None
    if not (of_input.only_rounds and of_weight.only_rounds):
        return None
    return of_input.rounding(x), of_weight.rounding(weight)


class _How(NamedTuple):
    of_input: FakeQuantization
    of_weight: FakeQuantization
    product: Product
    rectified: bool  # whether a ReLU before it may leave its backward pass to it


@contextmanager
def float_products() -> Iterator[None]:
    """Inside, multiply the float values of integers, as a CPU does that cannot multiply bytes.

    Other threads do not see it. A checkpointed part of a model that goes back outside is made again as outside.
    """
    token = _FLOAT_PRODUCTS.set(True)
    try:
        yield
    finally:
        _FLOAT_PRODUCTS.reset(token)


def _multiplied(x: Tensor, weight: Tensor, bias: Tensor | None, how: _How) -> Tensor:
    """The product of both quantized."""
    if _is_worth_packing(x, weight, how) and not _FLOAT_PRODUCTS.get() and _is_narrow(how.of_weight):
        bytes_of_weight = how.of_weight.as_bytes(weight, signed=True)
        bytes_of_input = None if bytes_of_weight is None else how.of_input.as_bytes(x)
        if bytes_of_input is not None and bytes_of_weight is not None:
            offset = how.of_input.offset
            return how.product.of_bytes(bytes_of_input, bytes_of_weight, bias, offset)
    return how.product.forward(how.of_input.onto_grid(x), how.of_weight.onto_grid(weight), bias)


def _is_narrow(of_weight: FakeQuantization) -> bool:
    """Whether this CPU multiplies such weights with bytes."""
    bits = integer_weight_bits()
    return bits > 0 and max(-of_weight.low, of_weight.high) <= 1 << (bits - 1)


def _is_worth_packing(x: Tensor, weight: Tensor, how: _How) -> bool:
    channels = x.shape[1] if weight.ndim > 2 else x.shape[-1]
    if weight.shape[1] < 2 or weight[0].numel() > _LONGEST:  # one channel: see integer_products.convolution
        return False
    groups = channels // weight.shape[1]
    if groups > 1 and (weight.shape[1] % _WHOLE_GROUP or weight.shape[0] // groups % _WHOLE_GROUP):
        return False
    one_scale_each = how.of_input.axis is None and how.of_weight.axis in (None, 0)
    return one_scale_each and x.numel() // channels * weight.numel() >= _WORTH


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        *learned_and_how: Any,
    ) -> Tensor:
        how: _How = learned_and_how[-1]
        ctx.how = how
        ctx.save_for_backward(x, weight, bias, *how.of_input.watched, *how.of_weight.watched)
        result = _multiplied(x, weight, bias, how)
        # a view that is made in here could not be changed in place outside
        return torch.ops.aten._unsafe_view(result, result.shape) if result._is_view() else result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (grad_output,) = gradients
        x, weight, bias, *_ = ctx.saved_tensors
        of_input, of_weight, product, rectified = ctx.how
        needed = ctx.needs_input_grad[:-1]  # x, weight, bias, two of the input's quantizer, two of the weight's
        if torch.is_grad_enabled():  # a backward pass that is differentiated itself
            inputs = (x, weight, bias, *of_input.learned, *of_weight.learned)
            return *_differentiable(grad_output, inputs, needed, ctx.how), None
        grads: list[Tensor | None] = [None] * 7
        to_input, to_parameters = needed[0] or any(needed[3:5]), any(needed[1:3]) or any(needed[5:])
        recomputed = None
        if to_input:
            grad_x = product.to_input(grad_output, x, of_weight.onto_grid(weight))
            if to_parameters:
                recomputed, grads[0], grads[3:5] = of_input.recompute_and_pass_back(grad_x, x, rectified=rectified)
            else:
                grads[0], grads[3:5] = of_input.pass_back(grad_x, x, fresh=True)
        if to_parameters:
            recomputed = of_input.onto_grid(x) if recomputed is None else recomputed
            grad_weight, grads[2] = product.to_weight(grad_output, recomputed, weight, bias=needed[2])
            grads[1], grads[5:] = of_weight.pass_back(grad_weight, weight, fresh=True)
        return *(grad if wanted else None for grad, wanted in zip(grads, needed, strict=True)), None


def _differentiable(
    grad_output: Tensor,
    inputs: tuple[Tensor | None, ...],
    needed: tuple[bool, ...],
    how: _How,
) -> list[Tensor | None]:
    """The gradients by autograd itself, from what the function is made of, with a graph of their own."""
    views = [None if value is None else value.view_as(value) for value in inputs]  # hooks on them have their turn later
    x, weight, bias, *learned = views
    assert x is not None and weight is not None
    of_input = how.of_input.with_learned((learned[0], learned[1]))
    of_weight = how.of_weight.with_learned((learned[2], learned[3]))
    result = how.product.forward(of_input.apply(x), of_weight.apply(weight), bias)
    wanted = [value for value, asked in zip(views, needed, strict=True) if asked and value is not None]
    grads = iter(torch.autograd.grad(result, wanted, grad_output, create_graph=True))
    return [next(grads) if asked else None for asked in needed]
