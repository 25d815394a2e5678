"""One frame of PETR as a graph of tensors alone.

The cameras go in inverted: ONNX has no inverse of a matrix, and one written out in float32 moves positions, so it is
computed where the graph is fed, in float64. Shapes are fixed, and so is the padding: its mask is part of the graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from mmdet3d.structures import Det3DDataSample
from torch import Tensor

from qdbev.detectors.frame_graph import Frame, Tensors
from qdbev.detectors.images.batches import current_frames
from qdbev.detectors.images.frame_batch import FrameBatch
from qdbev.detectors.queries.frame_graph import QueryGraph


class PETRGraph(QueryGraph):
    """One sample, for images with the padding of the scene."""

    camera_input = "img2lidar"

    def cameras(self, frames: FrameBatch) -> Tensor:
        """See ``QueryGraph``."""
        return frames.to_lidar()

    def frames(self, cameras_1N44: Tensor) -> FrameBatch:
        """See ``QueryGraph``; ``lidar2img`` is no number, so that whoever looks at it is noticed."""
        frames = super().frames(torch.full(self.scene.lidar2img_N44[None].shape, float("nan")))
        padded = any(self.scene.padding_px)
        return replace(frames, img2lidar_BN44=cameras_1N44, valid_size_B2=self._valid_size() if padded else None)

    def feeds(
        self, inputs: Mapping[str, Any], sample: Det3DDataSample, *, place: int, before: Sequence[Frame] = ()
    ) -> Tensors:
        """See ``FrameGraph``.

        Raises:
            ValueError: Images of another size than the graph's, or padded otherwise.
        """
        feeds = super().feeds(inputs, sample, place=place)
        frames = current_frames([sample], device=torch.device("cpu"))
        valid = frames.image_size_B2 if frames.valid_size_B2 is None else frames.valid_size_B2
        if not torch.equal(valid, self._valid_size()):
            (width, height), (wide, high) = (size[0].int().tolist() for size in (valid, self._valid_size()))
            raise ValueError(
                f"images are {height}x{width} before padding, this graph takes {high}x{wide} alone: "
                "export the detector for the size of these data"
            )
        return feeds

    def _valid_size(self) -> Tensor:
        """(1, 2) width and height before padding."""
        (height, width), (rows, columns) = self.scene.image_px, self.scene.padding_px
        return torch.tensor([[float(width - columns), float(height - rows)]])
