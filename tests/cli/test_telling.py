"""Bars on a terminal, lines elsewhere, the same lines in a log file, and how much of it."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
import sys
from pathlib import Path

import pytest
from tqdm import tqdm

from pipelines.reporting.outcome import Outcome
from qdbev_cli.console import guarded
from qdbev_cli.telling import Telling, _Lines, bars_fit

LOG = logging.getLogger("pipelines.commands.compress")


def work() -> Outcome:
    LOG.debug("found qat-w4a6-nano-1")
    LOG.info("[1/2] float  NDS 0.560  4 min, about 31 min left")
    LOG.warning("no CAN bus for 2 of 3 scenes")
    return Outcome(messages=["done"])


@pytest.mark.parametrize(
    ("telling", "told"),
    [
        (Telling(), ["[1/2] float  NDS 0.560  4 min, about 31 min left", "qdbev: no CAN bus for 2 of 3 scenes"]),
        (Telling(quiet=True), ["qdbev: no CAN bus for 2 of 3 scenes"]),
        (
            Telling(verbose=True),
            [
                "found qat-w4a6-nano-1",
                "[1/2] float  NDS 0.560  4 min, about 31 min left",
                "qdbev: no CAN bus for 2 of 3 scenes",
            ],
        ),
    ],
)
def test_how_much_is_told(telling: Telling, told: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    guarded(work, as_json=False, telling=telling)
    out, err = capsys.readouterr()
    assert (out, err.splitlines()) == ("done\n", told)
    assert LOG.parent is not None and logging.getLogger("pipelines").handlers == []


def test_a_log_file_holds_lines_with_their_time_and_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["qdbev", "compress", "--stages", "4"])
    path = tmp_path / "logs" / "run.log"
    guarded(work, as_json=False, telling=Telling(quiet=True, log_file=path))

    def fail() -> Outcome:
        raise KeyError("lost")

    with pytest.raises(BaseException, match="1"):
        guarded(fail, as_json=False, telling=Telling(log_file=path))
    lines = path.read_text(encoding="utf-8").splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d ", line) for line in lines)
    assert [line.partition(" ")[2] for line in lines] == [
        "qdbev compress --stages 4",
        "[1/2] float  NDS 0.560  4 min, about 31 min left",
        "no CAN bus for 2 of 3 scenes",
        "qdbev compress --stages 4",
        "ended by KeyError: 'lost'",
    ]


def test_a_log_file_that_cannot_be_written_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BaseException, match="3"):
        guarded(work, as_json=True, telling=Telling(log_file=tmp_path))
    assert json.loads(capsys.readouterr().out)["exit_code"] == 3


def test_a_bar_that_cannot_be_drawn_over_becomes_lines() -> None:
    stream = io.StringIO()
    for _ in tqdm(range(3), desc="evaluate", file=_Lines(stream), mininterval=0, miniters=1):
        pass
    print("after", file=_Lines(stream))
    lines = stream.getvalue().splitlines()
    assert list(dict.fromkeys(line.split("%")[0] for line in lines[:-1])) == [
        f"evaluate: {share:3d}" for share in (0, 33, 67, 100)
    ]
    assert lines[-1] == "after" and "" not in lines


def test_a_terminal_without_rows_takes_no_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((80, 0)))
        assert not bars_fit()
        monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((80, 24)))
        assert bars_fit()
    os.close(ours)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert not bars_fit()
