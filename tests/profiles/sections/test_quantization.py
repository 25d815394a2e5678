"""Bits, their label, and the one combination that makes no sense."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from profiles.sections.quantization import QuantizationProfile


def test_label_and_float() -> None:
    assert QuantizationProfile(weight_bits=4, activation_bits=6).label == "W4A6"
    assert not QuantizationProfile(weight_bits=4, activation_bits=32).is_float
    assert QuantizationProfile(weight_bits=32, activation_bits=32).is_float


def test_float_cannot_quantize_its_first_and_last_layer() -> None:
    with pytest.raises(ValidationError, match="first_last_bits must be null or 32"):
        QuantizationProfile(weight_bits=32, activation_bits=32, first_last_bits=8)
