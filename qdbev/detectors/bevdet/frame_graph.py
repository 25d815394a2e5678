"""One frame of BEVDet or BEVDet4D as a graph of tensors alone.

Shapes: N cameras, D depths, P pixels, C channels, H W of a map.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from qdbev.detectors.bevdet.network import BEVDetNetwork
from qdbev.detectors.bevdet.warping import now_to, places_then, sampled
from qdbev.detectors.frame_graph import Tensors
from qdbev.detectors.lift import KEY_FRAME_S, CameraFrames, Encoded, Lifted, LiftGraph, pooled


class BEVDetGraph(LiftGraph):
    """One sample; the past frame lies in the current cells, and its map is read where every cell was then."""

    detector: BEVDetNetwork
    own_meanings: Mapping[str, str] = {
        "places": "where every cell lay in the map of the past frame: x and y, -1 to 1 (1, rows, columns, 2)",
        "gap_s": "seconds to the past frame; 0.5 times frames back where there is none (1,)",
    }

    @property
    def channels(self) -> int:
        """See ``LiftGraph``."""
        transformer = self.detector.img_view_transformer
        return transformer.depthnet.out_channels - transformer.depths

    def geometry(self, frames: CameraFrames, *, past: CameraFrames | None) -> Tensors:
        """See ``LiftGraph``."""
        cells = {"cells": self.detector.img_view_transformer.cells(frames)}
        if not self.frames_back:
            return cells
        then = frames if past is None else past
        places = places_then(now_to(then.lidar2global_B44, frames=frames), grid=self.detector.grid)
        gap = torch.full((1,), self.frames_back * KEY_FRAME_S)
        gap = gap if past is None else (frames.time_B - past.time_B).abs()
        return {**cells, "places": places.float(), "gap_s": gap.float()}

    def lifted(self, image_NCHW: Tensor, given: Tensors) -> Lifted:
        """See ``LiftGraph``."""
        return self.detector.img_view_transformer.lift(image_NCHW)

    def encoded(self, lifted: Lifted, past: Lifted | None, given: Tensors) -> Encoded:
        """See ``LiftGraph``; both maps go through the layers that they share at once."""
        detector, cells = self.detector, given["cells"]
        maps = [pooled(frame, cells_BNDP=cells, grid=detector.grid) for frame in (lifted, past) if frame is not None]
        if past is None:
            return Encoded(detector.ground(maps[0]), cells, lifted)
        now, then = detector.pre_process_net(torch.cat(maps))[0].chunk(2)
        bev_BCHW = torch.cat([now, sampled(then, places_BHW2=given["places"])], 1)
        return Encoded(detector.ground(bev_BCHW), cells, lifted, given["gap_s"])
