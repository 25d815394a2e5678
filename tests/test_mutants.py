"""The mutation check changes what computes, and nothing that is only told or only typed."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = '''"""What the file is."""
from typing import Literal

Kind = Literal["a", "b"]


def f(x: int = 3, *, flag: "bool" = False) -> float:
    """What it does: 4."""
    if not flag and x < 2:
        raise ValueError("not 5")
    g("kind", help="seven")
    return x + 1
'''
CHANGES = {
    ("default", "3", "4"),
    ("default", "False", "True"),
    ("and/or", "not flag and x < 2", "(not flag or x < 2)"),
    ("not removed", "not flag", "(flag)"),
    ("comparison", "x < 2", "(x <= 2)"),
    ("constant", "2", "3"),
    ("statement removed", 'raise ValueError("not 5")', "pass"),
    ("statement removed", 'g("kind", help="seven")', "pass"),
    ("constant", '"kind"', '""'),
    ("return None", "return x + 1", "return None"),
    ("operator", "x + 1", "(x - 1)"),
    ("constant", "1", "2"),
}


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))


def test_every_change_of_a_small_file(scripts: None, tmp_path: Path) -> None:
    from mutants import mutants_of

    (tmp_path / "small.py").write_text(SOURCE, encoding="utf-8")
    mutants = mutants_of(tmp_path, "small.py")
    assert {(mutant.kind, mutant.before, mutant.after) for mutant in mutants} == CHANGES
    assert len(mutants) == len(CHANGES) == len({mutant.key for mutant in mutants})
    changed = [mutant.applied(SOURCE.encode()).decode() for mutant in mutants if mutant.kind == "comparison"]
    assert changed == [SOURCE.replace("x < 2", "(x <= 2)")]


def test_tests_of_a_module_come_from_near_to_far(scripts: None) -> None:
    from mutant_tests import stages_of

    stages = stages_of(ROOT, "qdbev/quantization/grid/integers.py", whole_suite=True)
    assert stages["its own tests"] == [
        "qdbev/quantization/grid/integers.py",
        "tests/quantization/grid/test_integers.py",
    ]
    assert "tests/quantization/layers/test_packing.py" in stages["tests of its room"] + stages["tests that import it"]
    everything = [path for paths in stages.values() for path in paths]
    assert len(everything) == len(set(everything)) == 1 + len(list((ROOT / "tests").rglob("test_*.py")))


def test_another_seed_draws_other_changes(scripts: None) -> None:
    from mutation_sample import drawn

    paths = ["qdbev/distillation"]
    first, again, other = (drawn(paths, seed=seed, count=5) for seed in (0, 0, 1))
    assert first == again != other
    assert all(mutant.path.startswith("qdbev/distillation/") for mutant in first + other)
