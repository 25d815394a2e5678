"""Who names a config that is a program is told that it runs, once for each."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

import profiles
from pipelines.assembly.config_notice import config_notice
from profiles import Profile
from qdbev_cli.app import app

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "fcos3d.yaml"


def profile(folder: Path, *, config: str, text: str) -> Profile:
    (folder / config).write_text(text)
    model = folder / "model.yaml"
    model.write_text(f"model: {{detector: mmdet3d, mmdet3d: {{config: {config}}}}}\n")
    return profiles.load("float", model=str(model), overrides=[f"data.cache={folder / 'cache'}"])


def test_each_digest_is_told_once(tmp_path: Path) -> None:
    first = profile(tmp_path, config="a.py", text="model = {}\n")
    assert config_notice(first).startswith(f"the config {tmp_path / 'a.py'} is Python and runs")
    assert config_notice(first) == ""
    assert config_notice(profile(tmp_path, config="a.py", text="model = {'type': 'X'}\n")) != ""
    assert config_notice(profile(tmp_path, config="b.py", text="model = {}\n")) == ""  # the same program


@pytest.mark.parametrize(
    ("config", "text", "runs"),
    [
        ("a.yaml", "model: {type: X}\n", False),
        ("a.json", '{"model": {}}', False),
        ("a.yaml", "custom_imports: {imports: [x]}\n", True),
        ("a.json", '{"_base_": "a.py"}', True),
    ],
)
def test_only_what_runs_is_told(tmp_path: Path, config: str, text: str, runs: bool) -> None:
    (tmp_path / "a.py").write_text("model = {}\n")
    assert bool(config_notice(profile(tmp_path, config=config, text=text))) is runs


def test_where_the_cache_cannot_be_written_it_is_told_each_time(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    wanted = profile(tmp_path, config="a.py", text="model = {}\n")
    assert config_notice(wanted) == config_notice(wanted) != ""


def test_dry_runs_tell_on_stderr_and_bevformer_never(tmp_path: Path) -> None:
    words = ["data", "synth", "--dry-run", "--json", "--set", f"data.cache={tmp_path}"]
    said = [CliRunner().invoke(app, [*words, "--model", str(EXAMPLE)]).stderr for _ in range(2)]
    assert ["fcos3d_config.py is Python and runs" in text for text in said] == [True, False]
    assert "runs" not in CliRunner().invoke(app, words).stderr
