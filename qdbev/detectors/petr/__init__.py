"""PETR (arXiv 2203.05625), from numbers to boxes; official parameter names and semantics."""

from __future__ import annotations

from qdbev.detectors.petr.build import build_petr
from qdbev.detectors.petr.detector import PETR

__all__ = ["PETR", "build_petr"]
