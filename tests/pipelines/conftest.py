"""Commands in a store of the test file's own; the file gives the settings that make them quick."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from qdbev_cli.app import app


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def usual_model() -> str:
    """The model of commands that name none: ``mite`` in a file whose laws hold for any weights, or "" for no name."""
    return "nano"


@pytest.fixture(scope="module")
def call(
    settings: list[str], usual_model: str, store: Path, shapes_counted_once: None
) -> Callable[..., dict[str, Any]]:
    """Run a command with --json and give its document."""

    def run(command: str, *words: str, code: int = 0, at: Path = store) -> dict[str, Any]:
        options = [word for setting in settings for word in ("--set", setting)]
        options += ["--store", str(at), "--device", "cpu", "--json"]
        options += ["--model", usual_model] if usual_model and "--model" not in words else []
        result = CliRunner().invoke(app, [*command.split(), *options, *words])
        assert result.exit_code == code, result.output
        document: dict[str, Any] = json.loads(result.stdout)
        return document

    return run
