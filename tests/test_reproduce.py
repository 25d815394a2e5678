"""The script that reproduces the paper's tables: every command line in it is one that the program takes."""

from __future__ import annotations

import os
import shlex
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import profiles
from qdbev_cli.app import app

SCRIPT = Path(__file__).parents[1] / "scripts" / "reproduce_nuscenes.sh"
REAL = ["--data", "/data/nuscenes", "--weights", "/data/bevformer"]
VERBS = ["evaluate", "sensitivity", *["calibrate", "evaluate"] * 4, "compress", "qat-progressive", "report"]


def command_lines(folder: Path, *words: str, code: int = 0) -> list[list[str]]:
    """What the script runs, as words after ``qdbev``; programs of these names note it and do nothing."""
    folder.mkdir(exist_ok=True)
    log = folder / "log"
    log.write_text("")
    for name in ("qdbev", "torchrun"):
        (folder / name).write_text(f'#!/bin/bash\nprintf "%q " {name} "$@" >> {log}\necho >> {log}\n')
        (folder / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", str(SCRIPT), *words], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    lines = [shlex.split(line) for line in log.read_text().splitlines()]
    for line in lines:
        if line[0] == "torchrun":
            assert line[1:6] == ["--standalone", "--nproc_per_node", "8", "-m", "qdbev_cli"]
            del line[1:6]
    return [line[1:] for line in lines]


def test_bash_reads_it() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)


@pytest.mark.parametrize(
    ("words", "models"),
    [
        (["--synthetic"], 1),
        (["--synthetic", "--quick", "--recipe", "ours"], 1),
        (REAL, 3),
        ([*REAL, "--recipe", "ours", "--models", "base"], 1),
    ],
)
def test_every_line_is_a_command_with_options_and_fields_that_exist(
    tmp_path: Path, words: list[str], models: int
) -> None:
    lines = command_lines(tmp_path / "bin", *words)
    real = "--data" in words
    start = ["doctor", "data"] if real else ["doctor"]
    assert [line[0] for line in lines] == [*start, *[*["import-weights"] * real, *VERBS] * models, "report"]
    group = get_command(app)
    for line in lines:
        command, rest = group, list(line)
        while hasattr(command, "commands"):
            command = command.commands[rest.pop(0)]  # type: ignore[attr-defined]
        command.make_context(line[0], rest)  # refuses what does not exist
        if line[0] not in ("doctor", "data"):
            name = line[line.index("--profile") + 1] if "--profile" in line else "float"
            model = line[line.index("--model") + 1] if "--model" in line else None
            profiles.load(name, model=model, recipes=_all(line, "--recipe"), overrides=_all(line, "--set"))


def _all(line: list[str], option: str) -> list[str]:
    return [value for word, value in pairwise(line) if word == option]


def test_steps_are_the_epochs_of_the_paper_on_eight_cards(tmp_path: Path) -> None:
    lines = command_lines(tmp_path / "bin", *REAL)
    compress = {line[line.index("--model") + 1]: _all(line, "--set") for line in lines if line[0] == "compress"}
    assert "qat.steps_per_stage=8791" in compress["tiny"]  # 15 epochs of 28130 samples in batches of 6 on 8 cards
    assert "qat.steps_per_stage=52744" in compress["base"]
    assert "distillation.schedule.steps=70325" in compress["small"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "give --data FOLDER"),
        (["--recipe", "mine", "--synthetic"], "--recipe is mine"),
        (["--colour"], "unknown option --colour"),
        ([*REAL, "--quick"], "--quick is for --synthetic alone"),
    ],
)
def test_what_it_cannot_do_is_said_before_anything_runs(tmp_path: Path, words: list[str], sentence: str) -> None:
    assert command_lines(tmp_path / "bin", *words, code=2) == []
    done = subprocess.run(["bash", str(SCRIPT), *words], capture_output=True, text=True, check=False)
    assert sentence in done.stderr


@pytest.mark.slow
def test_a_dry_run_goes_through(tmp_path: Path) -> None:
    """The very lines, through the program; nothing is made."""
    lines = command_lines(tmp_path / "bin", "--synthetic", "--dry-run", "--store", str(tmp_path / "runs"))
    for line in lines[1:]:
        assert "--dry-run" in line
        result = CliRunner().invoke(app, line)
        assert result.exit_code == 0 and "Would do" in result.output, (line, result.output)
    assert not (tmp_path / "runs").exists()
