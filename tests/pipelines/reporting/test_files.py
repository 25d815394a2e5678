"""Files of a report are whole before they have their names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipelines.reporting.files import Places, write


def test_all_of_a_file_is_on_its_way_to_the_disk_before_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = list[int]()
    monkeypatch.setattr(os, "fsync", lambda handle: sizes.append(os.fstat(handle).st_size))
    made = write(Places(tmp_path / "out" / "report.md", None), document="# Report")
    assert sizes == [len("# Report")] and made == [f"report: {tmp_path / 'out' / 'report.md'}"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.md"]
