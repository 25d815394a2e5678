"""A reference of integer arithmetic: integers in, exact sums of their products in 32 bits, one rescaling per output.

``S_x S_w sum(q_x q_w) + bias`` is what a runtime computes that has integer kernels. Eager fake quantization computes
``sum((S_x q_x) (S_w q_w)) + bias``, the same number but for rounding. Sums are made of float64, which holds every
integer up to 2^53, so they are exact on every machine; one that 32 bits do not hold is refused.

Convolutions, linear layers and the projections of attention multiply integers; embedding tables are rescaled where they
are read. A deformable convolution samples between integers, so it stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qdbev.quantization import Quantizer, quantized_layers
from qdbev.quantization.layers.attention import QuantMultiheadAttention
from qdbev.quantization.layers.quantized import QuantConv2d, QuantConvTranspose2d, QuantizedLayer, QuantLinear

_LARGEST = 2**31 - 1


def execute_integers(model: nn.Module) -> list[str]:
    """Let every quantized layer that can multiply integers do so, in place, for prediction.

    Args:
        model: All its quantizers are on and have ranges; no gradients pass through it afterwards.

    Returns:
        Paths of the layers that multiply integers now; others have no input or weight in integers, or sample.
    """
    changed = []
    for path, layer in quantized_layers(model).items():
        integer_class = _CLASSES.get(type(layer))
        if integer_class is not None and _all_integers(layer):
            layer.__class__ = integer_class
            changed.append(path)
    return changed


def integer_linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, of_x: Quantizer, of_weight: Quantizer) -> Tensor:
    """``F.linear`` of integers.

    Args:
        x: (..., I), real.
        weight: (O, I), real.
        bias: (O,), real.
        of_x: The quantizer of ``x``, one scale.
        of_weight: The quantizer of the weight, one scale or O.
    """
    q_x, q_weight = of_x.integers(x), of_weight.integers(weight)
    sums = _exact(F.linear(q_x.double(), q_weight.double()))
    offset = None if of_x.offset is None else of_x.offset.double() * q_weight.sum(1, dtype=torch.float64)
    return _rescaled(sums, offset, bias, of_x=of_x, scale=of_weight.scale.double()).to(x.dtype)


class IntegerLinear(QuantLinear):
    """A linear layer on integers."""

    def forward(self, input: Tensor) -> Tensor:
        """As ``nn.Linear``."""
        of_x, of_weight = _present(self.input_quantizer), _present(self.weight_quantizer)
        return integer_linear(input, self.weight, self.bias, of_x=of_x, of_weight=of_weight)


def _integer_convolution(
    product: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    of_x: Quantizer,
    of_weight: Quantizer,
) -> Tensor:
    """A product of images of integers; zeros around and between them are zeros, also where integers have an offset."""
    q_x, q_weight = of_x.integers(x), of_weight.integers(weight).double()
    sums, offset = _exact(product(q_x.double(), q_weight)), None
    if of_x.offset is not None:
        offset = product(of_x.offset.double().expand(q_x.shape), q_weight)
    scale = of_weight.scale.double().reshape(-1, 1, 1)
    bias = None if bias is None else bias.reshape(-1, 1, 1)
    return _rescaled(sums, offset, bias, of_x=of_x, scale=scale).to(x.dtype)


class IntegerConv2d(QuantConv2d):
    """A convolution on integers."""

    def forward(self, input: Tensor) -> Tensor:
        """As ``nn.Conv2d``."""
        of_x, of_weight = _present(self.input_quantizer), _present(self.weight_quantizer)
        product = partial(self._conv_forward, bias=None)
        return _integer_convolution(product, input, self.weight, self.bias, of_x=of_x, of_weight=of_weight)


class IntegerConvTranspose2d(QuantConvTranspose2d):
    """A transposed convolution on integers."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """As ``nn.ConvTranspose2d``."""
        of_x, of_weight = _present(self.input_quantizer), _present(self.weight_quantizer)
        product, rows = partial(self.product, bias=None, output_size=output_size), self.rows
        return _integer_convolution(product, input, rows, self.bias, of_x=of_x, of_weight=of_weight)


class IntegerMultiheadAttention(QuantMultiheadAttention):
    """Attention whose projections multiply integers; softmax and the products of activations stay float."""

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantize the inputs, project, and split into heads (N, H, ., D)."""
        quantizers = (self.query_quantizer, self.key_quantizer, self.value_quantizer)
        of_weight = _present(self.in_proj_weight_quantizer)
        heads = [
            integer_linear(x, self.in_proj_weight, self.in_proj_bias, of_x=_present(of_x), of_weight=of_weight)
            .chunk(3, dim=-1)[place]
            .unflatten(-1, (self.num_heads, -1))
            .transpose(1, 2)
            for place, (x, of_x) in enumerate(zip((query, key, value), quantizers, strict=True))
        ]
        return heads[0], heads[1], heads[2]

    def _project_out(self, x_NLE: Tensor) -> Tensor:
        projection = self.out_proj
        of_x = _present(projection.input_quantizer)
        of_weight = _present(projection.weight_quantizer)
        return integer_linear(x_NLE, projection.weight, projection.bias, of_x=of_x, of_weight=of_weight)


_CLASSES: dict[type[nn.Module], type[QuantizedLayer]] = {
    QuantLinear: IntegerLinear,
    QuantConv2d: IntegerConv2d,
    QuantConvTranspose2d: IntegerConvTranspose2d,
    QuantMultiheadAttention: IntegerMultiheadAttention,
}


def _all_integers(layer: QuantizedLayer) -> bool:
    """Whether all weights and inputs of a layer have a quantizer that is on."""
    weights, inputs = list(layer.quantized_weights()), list(layer.input_quantizers())
    complete = len(weights) == len(layer.weight_names) and len(inputs) == len(layer.input_names)
    return complete and all(quantizer.state == "on" for quantizer in layer.quantizers())


def _exact(sums: Tensor) -> Tensor:
    """Sums of products of integers, as float64.

    Raises:
        ValueError: 32 bits do not hold one.
    """
    if sums.numel() and float(sums.abs().max()) > _LARGEST:
        raise ValueError("a sum of products of integers does not fit into 32 bits")
    return sums


def _rescaled(sums: Tensor, offset: Tensor | None, bias: Tensor | None, *, of_x: Quantizer, scale: Tensor) -> Tensor:
    """``S_w (S_x sums + offset) + bias`` in float64."""
    result = sums * (of_x.scale.double() * scale)
    if offset is not None:
        result = result + offset * scale
    return result if bias is None else result + bias.double()


def _present(quantizer: object) -> Quantizer:
    assert isinstance(quantizer, Quantizer)
    return quantizer
