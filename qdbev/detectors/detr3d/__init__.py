"""DETR3D (arXiv 2110.06922), from numbers to boxes; official parameter names and semantics."""

from __future__ import annotations

from qdbev.detectors.detr3d.build import build_detr3d
from qdbev.detectors.detr3d.detector import DETR3D

__all__ = ["DETR3D", "build_detr3d"]
