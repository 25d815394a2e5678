"""What a target makes of the bits of a layer: a table, each row with its source and the month it was read.

For each target the first row that fits a layer holds. What a row says was run here only where its source says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Fate = Literal["exact", "same range at 8 bits", "weights alone", "float"]
"""Exact: the same integers. Same range: steps of 8 bits, finer than asked for. Weights alone: inputs stay in float."""
Kind = Literal["convolution", "1x1 convolution", "transposed convolution", "linear", "deformable convolution", "table"]


@dataclass(frozen=True)
class Layer:
    """What rules look at.

    Attributes:
        kind: What it is.
        narrowest: The smaller one of its numbers of inputs and outputs, of one group.
        outputs: Output channels.
    """

    kind: Kind
    narrowest: int
    outputs: int


_KINDS: dict[str, Kind] = {
    "linear": "linear",
    "attention": "linear",
    "embedding": "table",
    "deformable_conv": "deformable convolution",
    "transposed_conv": "transposed convolution",
}


def layer_of(kind: str, shape: Sequence[int], *, stride: int = 1) -> Layer:
    """What rules look at, of a layer.

    Args:
        kind: As a plan names it.
        shape: Of its weight, outputs first.
        stride: The largest one; a 1x1 convolution that skips pixels counts among the wider ones.
    """
    outputs, inputs, *kernel = (int(side) for side in shape)
    plain: Kind = "1x1 convolution" if all(side == 1 for side in (*kernel, stride)) else "convolution"
    return Layer(_KINDS.get(kind, plain), narrowest=min(outputs, inputs), outputs=outputs)


@dataclass(frozen=True)
class Rule:
    """What becomes of some layers.

    Attributes:
        kinds: Layers that it is of.
        fate: What their integers become.
        how: As what they run.
        source: Where it is documented, and the month.
        below: It holds only for layers whose narrowest side is below this; None: for all.
        outputs_above: It holds only for layers of more outputs; None: for all.
        weights: Widths of weights that the target has a type for: others take the room of the next wider one.
        inputs: Widths of inputs that it computes with.
    """

    kinds: tuple[Kind, ...]
    fate: Fate
    how: str
    source: str
    below: int | None = None
    outputs_above: int | None = None
    weights: tuple[int, ...] = (8,)
    inputs: tuple[int, ...] = (8,)

    def fits(self, layer: Layer) -> bool:
        """Whether it is about a layer."""
        narrow = self.below is None or layer.narrowest < self.below
        wide = self.outputs_above is None or layer.outputs > self.outputs_above
        return layer.kind in self.kinds and narrow and wide


_ALL: tuple[Kind, ...] = ("convolution", "1x1 convolution", "linear", "deformable convolution", "table")
_CONVOLUTIONS: tuple[Kind, ...] = ("convolution", "1x1 convolution")
_ANY, _HALVES = (2, 3, 4, 5, 6, 7, 8), (4, 8)
"""All widths that a plan has; those that ONNX has a type for."""
_MEASURED = "run here by the gate, ONNX Runtime 1.32.0, 2026-11"
_OPENVINO = "run here by the gate, OpenVINO 2026.4.1, 2026-11"
_TRT = "TensorRT documentation, Working with Quantized Types, 2026-11"
_MODELOPT = "Model Optimizer changelog, 2026-08"
_QNN = "Qualcomm 80-63442-10, HTP guidelines for INT4 weights, 2026-06"
_QONNX = "QONNX 1.0, operators Quant and IntQuant, 2026-02"
_TRANSPOSED: tuple[Kind, ...] = ("transposed convolution",)
_LEFT = "ours: ConvTranspose is written with floats, 2026-12"

RULES: Mapping[str, tuple[Rule, ...]] = {
    "ort": (
        Rule(("linear",), "exact", "MatMulIntegerToFloat", _MEASURED, weights=_HALVES, inputs=_ANY),
        Rule(
            _CONVOLUTIONS,
            "exact",
            "QLinearConv or MatMulIntegerToFloat; floats of a few channels before a sum",
            _MEASURED,
            weights=_HALVES,
            inputs=_ANY,
        ),
        Rule(
            ("deformable convolution",),
            "exact",
            "sampled, then a product of floats",
            _MEASURED,
            weights=_HALVES,
            inputs=_ANY,
        ),
        Rule(("table",), "exact", "looked up, then floats", _MEASURED, weights=_HALVES),
        Rule(_TRANSPOSED, "exact", "ConvTranspose of floats", _MEASURED, weights=_HALVES, inputs=_ANY),
    ),
    "openvino": (
        Rule(("linear", *_CONVOLUTIONS), "exact", "u8 by i8, sums in float", _OPENVINO, weights=_HALVES, inputs=_ANY),
        Rule(
            ("deformable convolution",),
            "exact",
            "sampled, then a product of floats",
            _OPENVINO,
            weights=_HALVES,
            inputs=_ANY,
        ),
        Rule(("table",), "exact", "looked up, then floats", _OPENVINO, weights=_HALVES),
        Rule(_TRANSPOSED, "exact", "ConvTranspose of floats", _OPENVINO, weights=_HALVES, inputs=_ANY),
    ),
    "tensorrt": (
        Rule(("linear",), "float", "Q and DQ of narrow products make them slower", _MODELOPT, below=16),
        Rule(("linear", *_CONVOLUTIONS), "same range at 8 bits", "INT8; INT4 has no inputs of integers", _TRT),
        Rule(("deformable convolution", "table"), "float", "a plugin in FP16", _TRT),
        Rule(_TRANSPOSED, "float", "ConvTranspose of floats", _LEFT),
    ),
    "qnn": (
        Rule(("1x1 convolution", "linear"), "same range at 8 bits", "W4A8", _QNN, outputs_above=32, weights=_HALVES),
        Rule(("linear", *_CONVOLUTIONS), "same range at 8 bits", "W8A8", _QNN),
        Rule(("deformable convolution", "table"), "float", "not an operator of the HTP", _QNN),
        Rule(_TRANSPOSED, "float", "ConvTranspose of floats", _LEFT),
    ),
    "qonnx": (Rule((*_ALL, *_TRANSPOSED), "exact", "Quant of any width", _QONNX, weights=_ANY, inputs=_ANY),),
}
"""Target -> its rules, the first that fits holds."""


def rule_for(layer: Layer, *, target: str) -> Rule:
    """The rule of a target for a layer.

    Raises:
        ValueError: An unknown target.
    """
    if target not in RULES:
        raise ValueError(f"target is {target!r}, expected one of {', '.join(RULES)}")
    return next(rule for rule in RULES[target] if rule.fits(layer))
