"""Commands in a store of the test file's own; the file gives the settings that make them quick."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from qdbev_cli.app import app

MITE = """
model:
  detector: bevformer
  weights: random
  image: {scale: 1.0, pad_divisor: 16}
  backbone: {depth: 18, base_channels: 8, stages: 3, out_indices: [1, 2], dcn_stages: [false, false, false],
             frozen_stages: -1, norm_frozen: false}
  neck: {in_channels: [16, 32], outputs: 2}
  bev: {rows: 10, columns: 10, range_m: [-40.96, -40.96, -5, 40.96, 40.96, 3], rotation_centre_px: null,
        rotation_nearest: false}
  encoder: {layers: 1, spatial_points: 4}
  decoder: {layers: 2}
  head: {queries: 30, query_init: grid}
  channels: 16
  heads: 2
  hidden: 24
  dropout: 0.0
data: {queue_length: 2, drop_one_frame: false}
"""


@pytest.fixture(scope="session")
def mite(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A BEVFormer for ``--model`` that has every kind of layer of nano and few numbers, of random weights.

    For laws that hold for any weights: it takes a third of nano's time.
    """
    path = tmp_path_factory.mktemp("models") / "mite.yaml"
    path.write_text(MITE.lstrip("\n"), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def call(settings: list[str], store: Path) -> Callable[..., dict[str, Any]]:
    """Run a command with --json and give its document."""

    def run(command: str, *words: str, code: int = 0, at: Path = store) -> dict[str, Any]:
        options = [word for setting in settings for word in ("--set", setting)]
        options += ["--store", str(at), "--device", "cpu", "--json"]
        result = CliRunner().invoke(app, [*command.split(), *options, *words])
        assert result.exit_code == code, result.output
        document: dict[str, Any] = json.loads(result.stdout)
        return document

    return run
