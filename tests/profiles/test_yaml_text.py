"""YAML that is damaged, deep, growing or tagged is refused at once, in a sentence that names file and line."""

from __future__ import annotations

import time

import pytest

from profiles.document import ProfileError
from profiles.yaml_text import DEEPEST, LONGEST, MOST_VALUES, read_yaml

NINE = "[" + ",".join(["*{}"] * 9) + "]"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} {NINE.replace('{}', below)}\n" for below, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("model: nano\0\n", "x.yaml is not YAML: unacceptable character #x0000"),
        ("\x01", "is not YAML"),
        ("\ud800", "is not YAML"),
        ("a: " + "[" * 600, f"more than {DEEPEST} levels in each other (line 1)"),
        ("a: " + "{a: " * 60, f"more than {DEEPEST} levels"),
        ("- " * 300 + "x", f"more than {DEEPEST} levels"),
        (BOMB, f"it stands for more than {MOST_VALUES} values, aliases counted (line 5)"),
        ("a: &a {b: *a}", "alias 'a' stands inside of what it names (line 1)"),
        ("*x", "found undefined alias 'x'"),
        ("0x" + "f" * 5000, "a whole number beyond 2^63"),
        ("9" * 5000, "holds a value that cannot be read"),
        ("2020-99-99", "holds a value that cannot be read: month"),
        ("!!timestamp abc", "holds a value that cannot be read: it is not what its tag says"),
        ("!!float x", "holds a value that cannot be read"),
        ("{[1]: 2}", "found unhashable key"),
        ("a: 010", "YAML reads '010' as 8; write the number meant (line 1)"),
        ("a:\n- -0_17", "YAML reads '-0_17' as -15; write the number meant (line 2)"),
        ("1:30", "YAML reads '1:30' as 90"),
        ("-1:30.5", "YAML reads '-1:30.5' as -90.5"),
        ("b: {<<: {x: 1}}", "<< merges a mapping, which is not taken; repeat its fields (line 1)"),
        ("x" * (LONGEST + 1), f"has {LONGEST + 1} characters; a profile has at most {LONGEST}"),
    ],
)
def test_what_is_no_profile_is_refused_at_once(text: str, sentence: str) -> None:
    start = time.perf_counter()
    with pytest.raises(ProfileError) as caught:
        read_yaml(text, origin="x.yaml")
    assert time.perf_counter() - start < 2
    assert sentence in str(caught.value) and str(caught.value).startswith("x.yaml")


def test_aliases_as_people_use_them_are_read() -> None:
    text = "a: &few [20, 20, 30]\nb: *few\nc: {d: *few}\n"
    assert read_yaml(text, origin="x") == {"a": [20, 20, 30], "b": [20, 20, 30], "c": {"d": [20, 20, 30]}}


def test_numbers_that_mean_what_they_look_like_are_read() -> None:
    text = "[0, -0, 04, 1_000, 0x10, 0b11, 010.5, 1e-4, +5]"
    assert read_yaml(text, origin="x") == [0, 0, 4, 1000, 16, 3, 10.5, 1e-4, 5]


def test_many_keys_are_read_in_no_time() -> None:
    start = time.perf_counter()
    with pytest.raises(ProfileError, match="k7 stands twice"):
        read_yaml("{" + ",".join(f"k{index % 4000}: 1" for index in range(4008)) + "}", origin="x")
    assert time.perf_counter() - start < 5
