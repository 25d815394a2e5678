"""Synthetic scenes in nuScenes format: rendered cameras, ray-cast LiDAR, CAN bus, all tables.

>>> from qdbev.data.synthetic import generate, verify
"""

from __future__ import annotations

from qdbev.data.synthetic.files.tree import SyntheticSummary, verify
from qdbev.data.synthetic.generate import generate

__all__ = ["SyntheticSummary", "generate", "verify"]
