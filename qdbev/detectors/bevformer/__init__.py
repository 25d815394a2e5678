"""BEVFormer (arXiv 2203.17270), from numbers to boxes; official parameter names and semantics."""

from __future__ import annotations

from qdbev.detectors.bevformer.build import build_bevformer
from qdbev.detectors.bevformer.detector import BEVFormer
from qdbev.detectors.bevformer.frames.history import History, StreamingHistory
from qdbev.detectors.bevformer.head import BEVFormerHead, Encoded
from qdbev.detectors.images.frame_batch import FrameBatch, frame_batch
from qdbev.detectors.queries.decoded import Decoded

__all__ = [
    "BEVFormer",
    "BEVFormerHead",
    "Decoded",
    "Encoded",
    "FrameBatch",
    "History",
    "StreamingHistory",
    "build_bevformer",
    "frame_batch",
]
