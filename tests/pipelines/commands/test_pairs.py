"""Two processes of one command at once on one store end well, with the same artifact; ``scripts`` tries 20 pairs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_both_of_a_pair_end_well() -> None:
    words = [sys.executable, str(ROOT / "scripts" / "try_pairs.py"), "--pairs", "1", "--command", "calibrate"]
    answer = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert re.match(r"pair 1: well \[0, 0\] \d+ artifacts, \d+ s, .*\n1 of 1 pairs ended well\n", answer.stdout)
