"""The README is executed: every command line in it is one the program takes, every target and page exists."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qdbev_cli.app import app

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = [
    line.split("#")[0].strip() for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines()
]
COMMANDS = [line for line in LINES if line.startswith("qdbev ")]
NO_DRY_RUN = {
    "doctor": "--help",
    "import-weights": "--help",
    "export": "--help",
    "artifacts": "--json",
    "profiles": "--json",
}


@pytest.mark.usefixtures("shapes_counted_once")
@pytest.mark.parametrize("line", COMMANDS)
def test_command(line: str, tmp_path: Path) -> None:
    words = shlex.split(line)[1:]
    words.append(NO_DRY_RUN.get(words[0], "--dry-run"))
    if words[0] not in ("doctor", "profiles", "data"):
        words += ["--store", str(tmp_path)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output


def test_every_command_is_shown() -> None:
    shown = {line.split()[1] for line in COMMANDS}
    registered = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}
    assert shown == registered


def test_make_targets_exist() -> None:
    targets = {line.split()[1] for line in LINES if line.startswith("make ")}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert targets == {"demo", "test"}
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in targets)


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)", README)
    missing = [link for link in links if not link.startswith("http") and not (ROOT / link).exists()]
    assert not missing


def test_stated_python_is_the_required_one() -> None:
    required = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    assert required == ">=3.11,<3.13"
    assert "Python 3.11 or 3.12" in README
