"""Names of observers: what a profile may say is what the library has, whole tensors, channels and offsets alike."""

from __future__ import annotations

from typing import get_args

import pytest
from pydantic import ValidationError

from profiles.sections.quantization import Observer, QuantizationProfile, WeightObserver
from qdbev.quantization.ranges.bounds_observers import BOUNDS_OBSERVERS
from qdbev.quantization.ranges.observer_kinds import OBSERVERS, make_observer

KINDS = [row.kind for row in OBSERVERS]


def with_an_offset(kind: str) -> QuantizationProfile:
    return QuantizationProfile.model_validate({"activation_offset": "learned", "activation_observer": kind})


def test_profiles_name_the_observers_of_the_library() -> None:
    assert list(get_args(Observer)) == KINDS
    assert list(get_args(WeightObserver)) == [row.kind for row in OBSERVERS if row.per_channel]


def test_profiles_allow_an_offset_where_the_library_finds_one() -> None:
    with_offset = [row.kind for row in BOUNDS_OBSERVERS]
    for kind in with_offset:
        assert with_an_offset(kind).activation_observer == kind
    for kind in set(KINDS) - set(with_offset):
        with pytest.raises(ValidationError, match=f"must be {' or '.join(with_offset)} where activation_offset"):
            with_an_offset(kind)


@pytest.mark.parametrize("row", OBSERVERS, ids=KINDS)
def test_a_row_makes_its_class_with_what_it_takes(row) -> None:  # type: ignore[no-untyped-def]
    options = {"bits": 5, "scale_rule": "hawq", "narrow_range": True, "percentile": 97.0, "momentum": 0.5}
    observer = make_observer(row.kind, **options, axis=1 if row.per_channel else None)  # type: ignore[arg-type]
    assert isinstance(observer, row.make)
    taken = options | {"axis": 1}
    assert {name: getattr(observer, name) for name in row.options} == {name: taken[name] for name in row.options}
