"""Dense heads that only float training has: they give every cell a gradient while queries or depths still search."""

from __future__ import annotations

from qdbev.detectors.auxiliary.image_head import ImageHead
from qdbev.detectors.auxiliary.in_view import Cameras, InView, in_view
from qdbev.detectors.auxiliary.objects import Objects, dense_head, gather_objects, mean_squared

__all__ = ["Cameras", "ImageHead", "InView", "Objects", "dense_head", "gather_objects", "in_view", "mean_squared"]
