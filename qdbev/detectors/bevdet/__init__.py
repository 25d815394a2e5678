"""BEVDet (arXiv 2112.11790) and BEVDet4D (arXiv 2203.17054), from numbers to boxes; official names and semantics."""

from __future__ import annotations

from qdbev.detectors.bevdet.build import build_bevdet
from qdbev.detectors.bevdet.detector import BEVDet

__all__ = ["BEVDet", "build_bevdet"]
