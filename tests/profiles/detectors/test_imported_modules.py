"""A config's digest follows the modules of one's own that it imports, and nothing that is installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from profiles.detectors.config_files import config_digest


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package on the path, ``my_plugin``, with a module below it."""
    folder = tmp_path / "plug" / "my_plugin" / "heads"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").write_text("")
    (folder / "head.py").write_text("CHANNELS = 1\n")
    (tmp_path / "plug" / "alone.py").write_text("CHANNELS = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path / "plug"))
    return folder / "head.py"


def digest(folder: Path, text: str) -> str:
    path = folder / "config.py"
    path.write_text(text)
    return config_digest(path)


@pytest.mark.parametrize(
    "text",
    [
        'custom_imports = dict(imports=["my_plugin.heads.head"], allow_failed_imports=False)\n',
        'custom_imports = {"imports": ["numpy", "my_plugin"]}\n',
        "import my_plugin.heads\n",
        "from my_plugin.heads import head\nmodel = dict()\n",
    ],
)
def test_a_changed_number_in_a_plugin_is_another_digest(plugin: Path, tmp_path: Path, text: str) -> None:
    before = digest(tmp_path, text)
    assert digest(tmp_path, text) == before
    plugin.write_text("CHANNELS = 2\n")
    assert digest(tmp_path, text) != before
    assert "my_plugin" not in sys.modules  # read, not imported


def test_a_module_of_one_file_counts_too(plugin: Path, tmp_path: Path) -> None:
    before = digest(tmp_path, "import alone\n")
    (plugin.parents[2] / "alone.py").write_text("CHANNELS = 2\n")
    assert digest(tmp_path, "import alone\n") != before


@pytest.mark.parametrize(
    "words", ["import alone\n", "def later():\n    from alone import CHANNELS\n", "importlib.import_module('alone')\n"]
)
def test_what_a_plugin_imports_counts_too(plugin: Path, tmp_path: Path, words: str) -> None:
    plugin.write_text(words)
    (plugin.parents[2] / "alone.py").write_text("import my_plugin\nCHANNELS = 1\n")  # in a circle
    before = digest(tmp_path, "import my_plugin\n")
    (plugin.parents[2] / "alone.py").write_text("import my_plugin\nCHANNELS = 2\n")
    assert digest(tmp_path, "import my_plugin\n") != before


def test_data_files_of_a_plugin_count_and_a_damaged_module_imports_nothing(plugin: Path, tmp_path: Path) -> None:
    plugin.write_text("import (\n")
    before = digest(tmp_path, "import my_plugin\n")
    (plugin.parent / "anchors.json").write_text("[1]")
    assert digest(tmp_path, "import my_plugin\n") != before


@pytest.mark.parametrize("ending", [".yaml", ".json"])
def test_custom_imports_of_other_forms_of_configs_count(plugin: Path, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"config{ending}"
    path.write_text('{"custom_imports": {"imports": ["my_plugin.heads.head"], "allow_failed_imports": false}}')
    before = config_digest(path)
    plugin.write_text("CHANNELS = 2\n")
    assert config_digest(path) != before


def test_a_large_package_that_only_a_plugin_imports_counts_by_sizes_and_times(plugin: Path, tmp_path: Path) -> None:
    large = plugin.parents[2] / "large"
    large.mkdir()
    for number in range(501):
        (large / f"m{number}.py").write_text("")
    plugin.write_text("import large\n")
    before = digest(tmp_path, "import my_plugin\n")
    (large / "m7.py").write_text("CHANNELS = 1\n")
    assert digest(tmp_path, "import my_plugin\n") != before
    with pytest.raises(ValueError, match="the module large that it imports has 501 files"):
        digest(tmp_path, "import large\n")


def test_a_base_that_imports_counts(plugin: Path, tmp_path: Path) -> None:
    (tmp_path / "base.py").write_text('custom_imports = dict(imports=["my_plugin"])\n')
    before = digest(tmp_path, '_base_ = "base.py"\n')
    plugin.write_text("CHANNELS = 2\n")
    assert digest(tmp_path, '_base_ = "base.py"\n') != before


@pytest.mark.parametrize("text", ["import os, torch\n", "from mmdet3d.models import X\n", "import no_such_module\n"])
def test_what_is_installed_or_not_there_leaves_the_digest_of_before(tmp_path: Path, text: str) -> None:
    import hashlib

    own = hashlib.sha256(text.encode()).hexdigest()
    assert digest(tmp_path, text) == hashlib.sha256(own.encode()).hexdigest()
