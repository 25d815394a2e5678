"""Lift and splat (arXiv 2008.05711), for several detectors: camera frames, frustums, pooling, memory of a stream."""

from __future__ import annotations

from qdbev.detectors.lift.detector import LiftDetector
from qdbev.detectors.lift.frame_graph import LiftGraph
from qdbev.detectors.lift.frames import (
    CameraFrames,
    camera_frames,
    checked_images,
    projected_frames,
    projections,
    queue_frame,
)
from qdbev.detectors.lift.frustum import VoxelGrid, cells_of, frustum, seen_cells, times_depth
from qdbev.detectors.lift.history import KEY_FRAME_S, Entry, LiftHistory, Past, entries_of, gap_s, past_of
from qdbev.detectors.lift.lifted import Lifted, depth_probabilities, pooled
from qdbev.detectors.lift.outputs import Decoded, Encoded

__all__ = [
    "KEY_FRAME_S",
    "CameraFrames",
    "Decoded",
    "Encoded",
    "Entry",
    "LiftDetector",
    "LiftGraph",
    "LiftHistory",
    "Lifted",
    "Past",
    "VoxelGrid",
    "camera_frames",
    "cells_of",
    "checked_images",
    "depth_probabilities",
    "entries_of",
    "frustum",
    "gap_s",
    "past_of",
    "pooled",
    "projected_frames",
    "projections",
    "queue_frame",
    "seen_cells",
    "times_depth",
]
