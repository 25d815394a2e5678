"""A quantized detector at the bits that a target has: simulated in torch, exported from there, scored as it is.

Weights keep their integers, which a byte holds. Inputs keep their range and get finer steps, a power of two of the old
ones, so that every value of the old grid is one of the new (but the last step of a full unsigned byte that has to be
signed). What has no home is computed in float, on weights that stay what their integers stand for.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from qdbev.export.targets.rules import Rule, layer_of, rule_for
from qdbev.quantization import Quantizer, quantized_layers

_BYTE = 8
SIGNED_INPUTS = {"tensorrt": True, "qnn": False}
"""Target -> whether its bytes are symmetric about zero."""


def put_onto_legal_bits(model: nn.Module, *, target: str) -> dict[str, Rule]:
    """Give every quantized layer the bits of a target, in place.

    Args:
        model: With quantizers that are on and have ranges.
        target: One of ``SIGNED_INPUTS``.

    Returns:
        Path of each layer -> the rule that it followed.

    Raises:
        ValueError: Bits that no byte holds.
    """
    followed = {}
    for path, layer in quantized_layers(model).items():
        weights = list(layer.quantized_weights())
        rule = rule_for(layer_of(layer.site.kind, weights[0].rows.shape, stride=stride_of(layer)), target=target)
        for weight in weights:
            if rule.fate == "float" and weight.quantizer.state == "on":
                _settle(weight)
        for quantizer in layer.input_quantizers():
            if rule.fate == "float":
                quantizer.state = "off"
            elif quantizer.state == "on":
                _widen(quantizer, signed=SIGNED_INPUTS[target])
        followed[path] = rule
    return followed


def stride_of(layer: nn.Module) -> int:
    """The largest stride of a layer; 1 where it has none."""
    stride: Any = getattr(layer, "stride", 1)
    return int(max(stride)) if isinstance(stride, tuple) else int(stride)


@torch.no_grad()
def _settle(weight: Any) -> None:
    """Leave the values of the integers as floats."""
    weight.write(weight.quantizer(weight.rows))
    weight.quantizer.state = "off"


@torch.no_grad()
def _widen(quantizer: Quantizer, *, signed: bool) -> None:
    scale, offset = quantizer.present_grid()
    bits, unsigned = quantizer.bits, quantizer.unsigned
    if bits > _BYTE:
        raise ValueError(f"{quantizer.name} has {bits} bits, and inputs on this target have {_BYTE} at most")
    if offset is not None and float(offset):
        ends = torch.stack([offset - 2 ** (bits - 1) * scale, offset + (2 ** (bits - 1) - 1) * scale])
        quantizer.put_onto(ends.abs().max() / (2 ** (_BYTE - 1) - 1), bits=_BYTE, unsigned=False)
    elif unsigned and signed:
        quantizer.put_onto(scale * 2.0 ** (bits - _BYTE + 1), bits=_BYTE, unsigned=False)
    else:
        quantizer.put_onto(scale * 2.0 ** (bits - _BYTE), bits=_BYTE, unsigned=unsigned)
