"""Quantized layers: torch's own layers with a weight quantizer and an input quantizer beside their parameters.

A layer is quantized in place by changing its class, so that parameters, their names, hooks and shared references stay.
With every quantizer off it computes exactly what the float layer computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qdbev.quantization.grid.recomputation import recomputing
from qdbev.quantization.layers.products import Convolution, Linear, composed, quantized_product
from qdbev.quantization.layers.quantizer import Quantizer
from qdbev.quantization.planning.output_channels import as_held, outputs_first, turned_groups
from qdbev.quantization.planning.plan import Site


def quantizer_of(weight: str) -> str:
    """Return the path of the quantizer of the weight at a path.

    >>> quantizer_of("neck.conv.weight"), quantizer_of("attn.in_proj_weight")
    ('neck.conv.weight_quantizer', 'attn.in_proj_weight_quantizer')
    """
    return f"{weight}_quantizer"


class QuantizedWeight(NamedTuple):
    """A weight of a quantized layer.

    Attributes:
        name: its path in the layer, such as ``weight`` or ``out_proj.weight``.
        quantizer: its quantizer, at ``quantizer_of(name)`` in the layer.
        value: the float parameter.
        turned: see ``qdbev.quantization.planning.output_channels``.
    """

    name: str
    quantizer: Quantizer
    value: Tensor
    turned: int = 0

    @property
    def rows(self) -> Tensor:
        """The weight as its quantizer takes it, the output channels first."""
        return outputs_first(self.value, turned=self.turned)

    def write(self, rows: Tensor) -> None:
        """Put another weight in its place, the output channels first."""
        self.value.copy_(as_held(rows, turned=self.turned))


class QuantizedLayer(nn.Module):
    """Common part of the quantized layers; mixed in before the float layer.

    Attributes:
        site: its place in the plan.
        weight_names: paths of the weights inside the layer; their quantizers are at ``quantizer_of`` these.
        input_names: paths of the input quantizers inside the layer.
    """

    site: Site
    weight_names: tuple[str, ...] = ("weight",)
    input_names: tuple[str, ...] = ("input_quantizer",)

    def add_quantizer(self, path: str, quantizer: Quantizer | None) -> None:
        """Register a quantizer at a path inside the layer, or None where the plan says float."""
        owner, _, name = path.rpartition(".")
        self.get_submodule(owner).register_module(name, quantizer)

    def quantized_weights(self) -> Iterator[QuantizedWeight]:
        """Yield the weights that have a quantizer, with the float parameter."""
        for name in self.weight_names:
            owner, _, leaf = name.rpartition(".")
            holder = self.get_submodule(owner)
            quantizer, value = holder._modules.get(quantizer_of(leaf)), holder._parameters[leaf]
            if isinstance(quantizer, Quantizer) and value is not None:
                yield QuantizedWeight(name, quantizer, value, turned_groups(self))

    def bias_of(self, weight: str) -> nn.Parameter | None:
        """The bias that belongs to a weight, such as ``in_proj_bias`` to ``in_proj_weight``; None without one."""
        owner, _, leaf = weight.rpartition(".")
        return self.get_submodule(owner)._parameters.get(leaf.removesuffix("weight") + "bias")

    def input_quantizers(self) -> Iterator[Quantizer]:
        """Yield the input quantizers."""
        for path in self.input_names:
            owner, _, name = path.rpartition(".")
            quantizer = self.get_submodule(owner)._modules.get(name)
            if isinstance(quantizer, Quantizer):
                yield quantizer

    def quantizers(self) -> Iterator[Quantizer]:
        """Yield all quantizers of the layer."""
        yield from (weight.quantizer for weight in self.quantized_weights())
        yield from self.input_quantizers()

    def _save_to_state_dict(self, *arguments: Any) -> None:
        """Bring following ranges up to date first: the optimizer has moved the weights since the last forward.

        A range that is so already stays the same tensor, as the one that another holder of the weight has saved.
        """
        for weight in self.quantized_weights():
            present = weight.quantizer.scale
            if not present.is_meta:
                weight.quantizer.refresh(weight.rows)
                if torch.equal(weight.quantizer.scale, present):
                    weight.quantizer.scale = present
        super()._save_to_state_dict(*arguments)


def through(quantizer: Quantizer | None, x: Tensor) -> Tensor:
    """Return ``quantizer(x)``, or ``x`` where the plan has no quantizer."""
    return x if quantizer is None else quantizer(x)


class QuantConv2d(QuantizedLayer, nn.Conv2d):
    """``Conv2d`` on quantized input and weight."""

    weight_quantizer: Quantizer | None
    input_quantizer: Quantizer | None

    def forward(self, input: Tensor) -> Tensor:
        """As ``nn.Conv2d``."""
        if self.padding_mode != "zeros" or isinstance(self.padding, str) or input.ndim != 4:
            return composed(self._conv_forward, input, self)
        return quantized_product(Convolution(self.stride, self.padding, self.dilation, self.groups), input, self)


class QuantConvTranspose2d(QuantizedLayer, nn.ConvTranspose2d):
    """``ConvTranspose2d`` on quantized input and weight."""

    weight_quantizer: Quantizer | None
    input_quantizer: Quantizer | None

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """As ``nn.ConvTranspose2d``."""
        x, rows = through(self.input_quantizer, input), through(self.weight_quantizer, self.rows)
        with recomputing():
            return self.product(x, rows, self.bias, output_size)

    @property
    def rows(self) -> Tensor:
        """The weight, its output channels first."""
        return outputs_first(self.weight, turned=self.groups)

    def product(self, x: Tensor, rows: Tensor, bias: Tensor | None, output_size: list[int] | None) -> Tensor:
        """The output for another input and weight, the weight's output channels first."""
        stride, padding, dilation = (list(map(int, sides)) for sides in (self.stride, self.padding, self.dilation))
        more = self._output_padding(x, output_size, stride, padding, list(self.kernel_size), 2, dilation)
        weight = as_held(rows, turned=self.groups)
        return F.conv_transpose2d(x, weight, bias, stride, padding, more, self.groups, dilation)


class QuantLinear(QuantizedLayer, nn.Linear):
    """``Linear`` on quantized input and weight."""

    weight_quantizer: Quantizer | None
    input_quantizer: Quantizer | None

    def forward(self, input: Tensor) -> Tensor:
        """As ``nn.Linear``."""
        return quantized_product(Linear(), input, self)


class _WeightReadQuantized(QuantizedLayer):
    """Reading ``layer.weight`` gives the weight as it is deployed; the parameter itself keeps its name.

    For layers whose weight is read elsewhere than in a forward of ours: embedding tables that a detector reads as
    ``embedding.weight``, and deformable convolutions, whose forward belongs to another library.
    """

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weight, quantized when the quantizer is on."""
        parameter = self._parameters["weight"]
        assert parameter is not None
        return through(self._modules.get("weight_quantizer"), parameter)  # type: ignore[arg-type]


class QuantEmbedding(_WeightReadQuantized, nn.Embedding):  # type: ignore[misc, override]
    """``Embedding`` whose table is quantized per row, whether it is called or its ``weight`` is read."""

    input_names = ()


class QuantDeformableConv(_WeightReadQuantized):
    """A deformable convolution on quantized input and weight; mixed in before the float class.

    Offsets and mask are computed from the quantized input and stay in float.
    """

    def forward(self, x: Tensor, *offset_and_mask: Tensor) -> Tensor:
        """As the float layer: ``x`` alone for the packs that make their own offsets, else with offset and mask."""
        quantizer: Any = self._modules.get("input_quantizer")
        quantized = through(quantizer, x)
        with recomputing():
            result: Tensor = super().forward(quantized, *offset_and_mask)
        return result


_DEFORMABLE_CLASSES: dict[type[nn.Module], type[nn.Module]] = {}


def deformable_class(float_class: type[nn.Module]) -> type[nn.Module]:
    """Return the quantized form of a deformable convolution's class; the same one every time."""
    if float_class not in _DEFORMABLE_CLASSES:
        name = f"Quant{float_class.__name__}"
        _DEFORMABLE_CLASSES[float_class] = type(name, (QuantDeformableConv, float_class), {"__module__": __name__})
    return _DEFORMABLE_CLASSES[float_class]
