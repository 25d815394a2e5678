"""Two processes of one command at once on one store end well, with the same artifact; ``scripts`` tries 20 pairs."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from tests.apart import exit_code, start

ROOT = Path(__file__).parents[3]


class Forked:
    """A command in a process that has imported everything; what it prints lies in a file until it is asked for."""

    def __init__(self, words: list[str], *, output: Path) -> None:
        self.output, self.returncode = output, None
        self.process = start(words, output=output)

    def communicate(self) -> tuple[bytes, bytes]:
        self.returncode = exit_code(self.process)
        return self.output.read_bytes(), self.output.with_suffix(".errors").read_bytes()


@pytest.mark.slow
def test_both_of_a_pair_end_well(
    mite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import try_pairs

    numbers = itertools.count()
    monkeypatch.setattr(try_pairs, "started", lambda words: Forked(words, output=tmp_path / f"{next(numbers)}.txt"))
    monkeypatch.setattr("sys.argv", ["try_pairs.py", "--pairs", "1", "--command", "calibrate", "--model", mite])
    code, printed = try_pairs.main(), capsys.readouterr().out
    assert code == 0, printed
    assert re.match(r"pair 1: well \[0, 0\] \d+ artifacts, \d+ s, .*\n1 of 1 pairs ended well\n", printed)
