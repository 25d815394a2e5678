"""Any detector of mmdet3d, built from its config, with parts that the user names."""

from __future__ import annotations

from qdbev.detectors.configured.build import build_configured
from qdbev.detectors.configured.detector import ConfiguredDetector

__all__ = ["ConfiguredDetector", "build_configured"]
