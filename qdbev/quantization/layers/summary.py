"""A quantized model in some lines of text: bits, layers, what stays in float and why, bytes, whether it is on."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import nn

from qdbev.quantization.layers.packing import MAX_PACKED_BITS, packed_size_bytes
from qdbev.quantization.layers.swap import quantized_layers
from qdbev.quantization.planning.plan import Plan

_NAMED = 3
"""Layers that are named for each reason; the others are counted."""


@dataclass(frozen=True)
class Summary:
    """A quantized model in numbers; ``print`` shows it."""

    kinds: dict[str, int]
    """Quantized layers of each kind, such as conv2d."""
    bits: dict[str, int]
    """Quantized layers of each width, such as W4A6."""
    quantizers: int
    """Quantizers in all."""
    on: int
    """Those that quantize now; where none does, the model computes in float."""
    float_bytes: int
    """Bytes of all parameters and buffers in float32."""
    packed_bytes: int | None
    """Bytes with weights as packed integers; None where some are wider than can be packed."""
    in_float: dict[str, str] = field(default_factory=dict)
    """Path of a layer that stays in float -> why; known where a plan is given."""
    folded: int | None = None
    """Batch norms that were folded, where that is known."""
    change: float | None = None
    """RMS difference of the outputs to those of the float model, as a share of their spread, where it was measured."""

    def __str__(self) -> str:
        """Some lines of text."""
        return "\n".join([*self._head(), *self._sizes(), *self._left_in_float()])

    def _head(self) -> list[str]:
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.items())
        widths = " and ".join(sorted(self.bits, key=lambda width: -self.bits[width]))
        state = "all on" if self.on == self.quantizers else f"{self.on} of them on" if self.on else "NONE OF THEM ON"
        count = sum(self.kinds.values())
        layers = f"{count} layer{'s' * (count != 1)} ({kinds})"
        return [f"{widths or 'nothing'} in {layers}; {self.quantizers} quantizers, {state}"]

    def _sizes(self) -> list[str]:
        lines = []
        if self.packed_bytes:
            sizes = f"{_size(self.float_bytes)} in float32, {_size(self.packed_bytes)} packed"
            lines.append(f"{sizes} ({self.float_bytes / self.packed_bytes:.1f}x smaller)")
        if self.folded is not None:
            lines.append(f"batch norms folded: {self.folded}")
        if self.change is not None:
            lines.append(f"outputs of the first batch differ from float by {100 * self.change:.1f} % of their spread")
        return lines

    def _left_in_float(self) -> list[str]:
        lines = []
        for reason in dict.fromkeys(self.in_float.values()):
            paths = [path for path, why in self.in_float.items() if why == reason]
            more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
            lines.append(f"in float: {', '.join(paths[:_NAMED])}{more} ({reason})")
        return lines


def summary(
    model: nn.Module, *, plan: Plan | None = None, folded: int | None = None, change: float | None = None
) -> Summary:
    """Describe a quantized model as it is now; warns where it has quantizers and none is on.

    Args:
        model: A model that ``quantize`` has changed.
        plan: What it was quantized by, for what stays in float.
        folded: See ``Summary``.
        change: Likewise.
    """
    layers = quantized_layers(model).values()
    states = [quantizer.state for layer in layers for quantizer in layer.quantizers()]
    on = states.count("on")
    if states and not on:
        warnings.warn(
            f"the model has {len(states)} quantizers and none is on, so it computes in float: "
            "set_parts(model, plan.parts) switches them on",
            stacklevel=2,
        )
    fits = all(weight.quantizer.bits <= MAX_PACKED_BITS for layer in layers for weight in layer.quantized_weights())
    return Summary(
        kinds=dict(Counter(layer.site.kind for layer in layers)),
        bits=dict(Counter(f"W{layer.site.weight_bits}A{layer.site.activation_bits}" for layer in layers)),
        quantizers=len(states),
        on=on,
        float_bytes=_float_bytes(model),
        packed_bytes=packed_size_bytes(model) if fits else None,
        in_float=_in_float(plan) if plan else {},
        folded=folded,
        change=change,
    )


def _in_float(plan: Plan) -> dict[str, str]:
    """Layers of a plan that hold weights to multiply by and are not quantized."""
    return {site.path: site.reason for site in plan.sites if not site.quantized}


def _float_bytes(model: nn.Module) -> int:
    """Bytes of what the float model holds, in float32: all but the quantizers' own state; shared tensors once."""
    own = {
        id(tensor)
        for layer in quantized_layers(model).values()
        for q in layer.quantizers()
        for tensor in q.state_dict(keep_vars=True).values()
    }
    tensors = {
        id(tensor): tensor for tensor in model.state_dict(keep_vars=True).values() if isinstance(tensor, torch.Tensor)
    }
    return sum(tensor.numel() * 4 for identity, tensor in tensors.items() if identity not in own)


def _size(count: int) -> str:
    """Bytes in a unit that leaves digits, of powers of 1024.

    >>> _size(3 * 2**20 // 2), _size(5300), _size(900)
    ('1.50 MB', '5.18 kB', '900 bytes')
    """
    for unit, size in (("MB", 2**20), ("kB", 2**10)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} bytes"
