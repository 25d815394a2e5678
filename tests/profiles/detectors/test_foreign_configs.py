"""Configs that are damaged, endless or deep are refused before anything of them is read as a program."""

from __future__ import annotations

from pathlib import Path

import pytest

from profiles.detectors.config_files import config_digest


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.py", "x = " + "(" * 5000),
        ("a.py", "x = \0"),
        ("a.py", "_base_ = [3]"),
        ("a.py", "_base_ = open('x')"),
        ("a.yaml", "[" * 5000),
        ("a.yaml", "a: &a [*a]"),
        ("a.json", "{"),
        ("a.yaml", "_base_: {a: 1}\n_base_: 2"),
    ],
)
def test_bases_that_cannot_be_told(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=r"the config .* cannot be "):
        config_digest(tmp_path / name)


def test_bases_that_double_are_counted(tmp_path: Path) -> None:
    for index in range(30):
        (tmp_path / f"{index}.py").write_text(f"_base_ = ['{index + 1}.py', '{index + 1}.py']\n")
    (tmp_path / "30.py").touch()
    with pytest.raises(ValueError, match="more than 200 files"):
        config_digest(tmp_path / "0.py")


def test_a_device_is_no_config(tmp_path: Path) -> None:
    (tmp_path / "a.py").symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="is no file"):
        config_digest(tmp_path / "a.py")
