"""Rules of targets: every layer has one, the first that fits holds, each names its source."""

from __future__ import annotations

import re
from typing import get_args

import pytest

from qdbev.export.targets.rules import RULES, Kind, Layer, rule_for


@pytest.mark.parametrize("target", RULES)
def test_every_layer_has_a_rule_with_a_dated_source(target: str) -> None:
    for kind in get_args(Kind):
        for side in (1, 16, 256):
            rule = rule_for(Layer(kind, narrowest=side, outputs=side), target=target)
            assert re.search(r"20\d\d-\d\d$", rule.source)


def test_narrow_products_stay_in_float_on_tensorrt_and_wide_ones_get_bytes() -> None:
    assert rule_for(Layer("linear", narrowest=8, outputs=64), target="tensorrt").fate == "float"
    assert rule_for(Layer("linear", narrowest=16, outputs=64), target="tensorrt").fate == "same range at 8 bits"


def test_four_bits_reach_the_htp_in_wide_1x1_convolutions_alone() -> None:
    ways = {outputs: rule_for(Layer("1x1 convolution", 32, outputs), target="qnn").how for outputs in (32, 33)}
    assert ways == {32: "W8A8", 33: "W4A8"}
    assert rule_for(Layer("convolution", 64, 64), target="qnn").how == "W8A8"


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one of ort, openvino, tensorrt, qnn, qonnx"):
        rule_for(Layer("linear", 64, 64), target="tflite")
