"""A sample of words that nobody should type, by ``scripts/fuzz_words.py``: 2,000 and more are for that script."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from drawn_words import Case, case  # noqa: E402  (scripts are no package)
from fuzz_words import fault_of  # noqa: E402

SEED, CASES, BATCHES = 20, 200, 4


@pytest.mark.parametrize("batch", range(BATCHES))
def test_words_end_in_a_sentence(batch: int, tmp_path: Path) -> None:
    for number in range(batch, CASES, BATCHES):
        folder = tmp_path / str(number)
        folder.mkdir()
        typed = case(SEED, number)
        fault = fault_of(typed, folder=folder, seconds=20)
        assert fault is None, f"{number}: {fault}: {shlex.join(typed.words)[:1000]}"


def test_a_case_is_drawn_from_its_seed_and_number_alone() -> None:
    assert case(1, 5) == case(1, 5) != case(1, 6)


def test_faults_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = Case(["profiles", "show"], {})
    assert fault_of(typed, folder=tmp_path) is None
    for error, kind in ((KeyError("x"), "exit code 1"), (SystemExit(5), "exit code 5")):

        def fail(*_: object, _error: BaseException = error, **__: object) -> None:
            raise _error

        monkeypatch.setattr("profiles.load", fail)
        fault = fault_of(typed, folder=tmp_path)
        assert fault is not None and fault.kind == kind
    monkeypatch.undo()
    slow = fault_of(typed, folder=tmp_path, seconds=1e-4)
    assert slow is not None and slow.kind == "hangs"
