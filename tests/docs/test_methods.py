"""Pages of measured methods are what their scripts print of the runs in docs/methods.json and docs/detectors.json."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("script", "page"), [("methods_page", "methods"), ("detectors_table", "table5")])
def test_the_page_is_printed_from_its_runs(script: str, page: str) -> None:
    printed = subprocess.run(
        [sys.executable, ROOT / "scripts" / f"{script}.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert printed.stdout == (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
