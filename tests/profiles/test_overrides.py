"""Override words are typed as YAML, and laying one mapping over another is a merge."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles.overrides import apply_overrides, overlay, parse_override
from profiles.yaml_text import read_yaml

trees = st.recursive(
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 3), max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner | st.integers(0, 3), max_size=3),
    max_leaves=6,
).filter(lambda value: isinstance(value, dict))


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("qat.learning_rate=1e-4", 1e-4),
        ("qat.learning_rate=2E-5", 2e-5),
        ("qat.learning_rate=0.5", 0.5),
        ("qat.stages=3", 3),
        ("qat.photometric=false", False),
        ("qat.clip_norm=null", None),
        ("distillation.weight=auto", "auto"),
        ("data.image_size_px=[352, 192]", [352, 192]),
        ("model.weights=/a=b/w.pth", "/a=b/w.pth"),
    ],
)
def test_values_are_yaml(word: str, value: Any) -> None:
    path, parsed = parse_override(word)
    assert (parsed, type(parsed)) == (value, type(value))
    assert ".".join(path) == word.partition("=")[0]


def test_the_later_word_wins_and_nothing_given_changes() -> None:
    given_content = {"qat": {"stages": 1, "batch_size": 2}}
    result = apply_overrides(given_content, words=["qat.stages=2", "qat.stages=3"])
    assert result == {"qat": {"stages": 3, "batch_size": 2}}
    assert given_content == {"qat": {"stages": 1, "batch_size": 2}}


@given(trees, trees, trees)
def test_overlay_is_associative(low: dict[str, Any], middle: dict[str, Any], high: dict[str, Any]) -> None:
    # a plain value between two mappings cuts off what is under it, whichever way it is grouped
    if any(_clashes(middle, other) for other in (low, high)):
        return
    assert overlay(overlay(low, middle), high) == overlay(low, overlay(middle, high))


@given(trees)
def test_overlay_with_itself_or_nothing_changes_nothing(tree: dict[str, Any]) -> None:
    assert overlay(tree, tree) == overlay(tree, {}) == overlay({}, tree) == tree


def _clashes(one: dict[str, Any], other: dict[str, Any]) -> bool:
    shared = one.keys() & other.keys()
    return any(
        isinstance(one[key], dict) != isinstance(other[key], dict)
        or (isinstance(one[key], dict) and _clashes(one[key], other[key]))
        for key in shared
    )


def test_strings_that_look_like_exponents_stay_text() -> None:
    assert read_yaml("[e4, 1e, 1e-4, 3e5, '1e-4']", origin="test") == ["e4", "1e", 1e-4, 3e5, "1e-4"]
