"""What a user can type ends with 0, 2 or 3 and one short sentence, never with a traceback."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from qdbev_cli.app import app

LONG = "n" * 300


def said(*words: str) -> Result:
    result = CliRunner(env={"COLUMNS": "120", "TERM": "dumb", "NO_COLOR": "1"}).invoke(app, list(words))
    assert result.exit_code in (0, 2, 3), result.output
    assert "Traceback" not in result.stderr and len(result.stderr) < 1500
    return result


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["artifacts", "list", "--store", LONG], 3, "File name too long"),
        (["artifacts", "list", "--store", "~nosuch/x"], 2, "there is no home folder '~nosuch'"),
        (["artifacts", "show", "~nosuch/x"], 2, "there is no home folder '~nosuch'"),
        (["artifacts", "show", LONG], 3, "there is no artifact 'nnn"),
        (["import-weights", LONG], 3, "there is no file nnn"),
        (["import-weights", "~nosuch/x.pth"], 2, "there is no home folder"),
        (["data", "synth", "--dry-run", "--set", "data.cache=~nosuch"], 2, "there is no home folder"),
        (["profiles", "check", f"{LONG}.yaml"], 2, "there is no profile file nnn"),
        (["profiles", "show", "w4a6", "--set", "name=\x01"], 2, "--set name is not YAML"),
        (["profiles", "show", "w4a6", "--set", "\x1b[2J=1"], 2, r"\x1b[2J is not a field of a profile"),
        (["profiles", "show", "\x1b[2J"], 2, r"there is no profile '\x1b[2J'"),
        (["profiles", "show", "w4a6", "--set", f"seed={'[' * 600}"], 2, "more than 40 levels"),
        (["profiles", "show", "w4a6", "--set", "a.b" * 2000 + "=1"], 2, "none lies deeper than"),
        (["compress", "--dry-run", "--set", "model.neck.in_channels=[3, 5]"], 2, "but the backbone gives [64, 128]"),
        (["data", "synth", "--set", "data.version=../../esc"], 2, "data.version is '../../esc'; it must match"),
        (["compress", "--device", "cuda:99999999999"], 2, "must be auto, cpu, cuda or cuda:N"),
        (["calibrate", "--method", LONG * 20], 2, "--method is 'nnn"),
        ([LONG * 20], 2, "there is no command 'nnn"),
        ([f"--{LONG * 20}"], 2, "qdbev has no option --nnn"),
    ],
)
def test_one_short_sentence(words: list[str], code: int, sentence: str, tmp_path: Path) -> None:
    result = said(*words)
    text = re.sub(r"\s*│\s*", " ", result.stderr)
    assert (result.exit_code, sentence in text) == (code, True), result.stderr
    assert "n" * 250 not in re.sub(r"[\s│]", "", result.stderr) and "\x1b" not in result.stderr


def test_a_store_that_is_no_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "file").touch()
    for name, what in (("dangling", "a link that leads to no folder"), ("file", "no folder")):
        result = said("artifacts", "list", "--store", str(tmp_path / name))
        assert (result.exit_code, what in result.stderr) == (3, True)


def test_a_file_that_says_too_much_wrong_is_told_in_short(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("".join(f"field_{index}: 1\n" for index in range(500)))
    result = said("profiles", "check", str(path))
    assert "495 more fields are wrong" in result.stderr and len(result.stderr) < 520
