"""Words of profiles: what a profile may say of grids and their ranges is what the library has, no more and no less."""

from __future__ import annotations

from typing import get_args, get_type_hints

import pytest
from pydantic import ValidationError

from profiles.sections.quantization import Observer, QuantizationProfile, WeightObserver
from qdbev.quantization.grid.integers import ScaleRule
from qdbev.quantization.layers.grids import WeightGrid
from qdbev.quantization.ranges.bounds_observers import BOUNDS_OBSERVERS
from qdbev.quantization.ranges.observer_kinds import OBSERVERS, make_observer
from qdbev.quantization.ranges.trained_ranges import RangeForm

KINDS = [row.kind for row in OBSERVERS]


def with_an_offset(kind: str) -> QuantizationProfile:
    return QuantizationProfile.model_validate({"activation_offset": "learned", "activation_observer": kind})


def test_profiles_name_the_observers_of_the_library() -> None:
    assert list(get_args(Observer)) == KINDS
    assert list(get_args(WeightObserver)) == [row.kind for row in OBSERVERS if row.per_channel]


def test_profiles_name_the_rules_and_the_forms_of_the_library() -> None:
    hints = get_type_hints(QuantizationProfile)
    assert hints["scale_rule"] == ScaleRule
    assert hints["weight_granularity"] == get_type_hints(WeightGrid)["granularity"]
    assert (*get_args(hints["learned_scale"]), "clip") == get_args(RangeForm)  # the last is activation_range: pact


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
