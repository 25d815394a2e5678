"""BEVDepth (arXiv 2206.10092), from numbers to boxes; official names and semantics."""

from __future__ import annotations

from qdbev.detectors.bevdepth.build import build_bevdepth
from qdbev.detectors.bevdepth.detector import BEVDepth

__all__ = ["BEVDepth", "build_bevdepth"]
