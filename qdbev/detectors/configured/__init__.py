"""Any detector of mmdet3d, built from its config, with parts that the user names."""

from __future__ import annotations

from qdbev.detectors.configured.build import build_configured
from qdbev.detectors.configured.detector import ConfiguredDetector
from qdbev.detectors.configured.image_branch import ImageBranch

__all__ = ["ConfiguredDetector", "ImageBranch", "build_configured"]
