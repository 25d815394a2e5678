"""A data set damaged in one place, any field of any table: right, or refused by name before anything is predicted."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SEEDS = range(2000, 2014)


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "scripts" / "mutate_data.py"), run_name="mutate_data")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutated")


@pytest.mark.parametrize("seed", SEEDS)
def test_it_is_right_or_refused_by_name(seed: int, script: dict[str, Any], work: Path, tiny_synthetic: Path) -> None:
    fault: Callable[[Any], str] = script["fault"]
    outcome = script["tried"](tiny_synthetic, seed=seed, work=work)
    assert not fault(outcome), outcome


def test_a_mutation_is_the_same_again(script: dict[str, Any], tmp_path: Path, tiny_synthetic: Path) -> None:
    words = []
    for name in ("first", "second"):
        root = script["linked_copy"](tiny_synthetic, target=tmp_path / name)
        words.append(
            [script["mutate"](root, seed=7), *(path.read_text() for path in sorted(root.glob("v1.0*/*.json")))]
        )
    assert words[0] == words[1]
