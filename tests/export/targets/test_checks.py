"""Checks that rules are made of, each on the numbers where it changes its mind."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from qdbev.export.targets.checks import opset_between


@pytest.mark.parametrize(("opset", "wrong"), [(16, ["opset 16"]), (17, []), (20, []), (21, ["opset 21"])])
def test_both_ends_of_a_range_of_opsets_are_allowed(opset: int, wrong: list[str]) -> None:
    assert list(opset_between(17, 20)(SimpleNamespace(opset=opset))) == wrong
