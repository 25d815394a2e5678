"""Paths with a home that is nobody's, and names that no file can have."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from profiles.document import ProfileError
from profiles.home import expanded, is_file, what_lies


def test_a_home_is_found_or_missed_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/runs") == tmp_path / "runs"
    assert expanded("runs/~nosuch") == Path("runs/~nosuch")
    with pytest.raises(ProfileError, match="there is no home folder '~nosuch'; write the path in full"):
        expanded("~nosuch/runs")


def test_what_cannot_be_a_file_is_none(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    names = ("n" * 300, "circle", "dangling", "a\0b")
    assert not any(is_file(tmp_path / name) for name in names)


def test_what_lies_where_a_file_should_is_told(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").touch()
    told = {name: what_lies(tmp_path / name) for name in ("circle", "dangling", "pipe", "", "file", "nothing")}
    assert told == {
        "circle": "is a link that leads nowhere",
        "dangling": "is a link that leads nowhere",
        "pipe": "is no plain file",
        "": "is a folder",
        "file": "",
        "nothing": "",
    }
