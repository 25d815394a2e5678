"""docs/methods.md is what its script prints of docs/methods.json."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_of_methods_is_printed_from_its_runs():
    printed = subprocess.run(
        [sys.executable, ROOT / "scripts" / "methods_page.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert printed.stdout == (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
