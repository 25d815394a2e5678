"""``python -m qdbev`` is the command ``qdbev``."""

from __future__ import annotations

import runpy
import sys

sys.argv[0] = "qdbev"
runpy.run_module("qdbev_cli", run_name="__main__")
