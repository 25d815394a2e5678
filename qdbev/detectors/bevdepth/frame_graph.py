"""One frame of BEVDepth as a graph of tensors alone: what is told of the cameras goes in beside the cells.

Boxes come out in the frame of the vehicle.

Shapes: N cameras, D depths, P pixels, C channels, H W of a map.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from mmengine.structures import InstanceData
from torch import Tensor

from qdbev.detectors.bevdepth.image_lift import camera_numbers
from qdbev.detectors.bevdepth.network import BEVDepthNetwork, in_lidar, lidar_to_grid, sensor_to_ego
from qdbev.detectors.frame_graph import Frame, Tensors
from qdbev.detectors.lift import CameraFrames, Encoded, Lifted, LiftGraph, camera_frames, pooled


class BEVDepthGraph(LiftGraph):
    """One sample; the past frame lies where its cameras were, as the current vehicle sees it."""

    detector: BEVDepthNetwork
    own_meanings: Mapping[str, str] = {
        "cameras": "4 numbers of each lens, 6 of its image, 5 of the ground, 12 of its place on the vehicle (1, N, 27)",
        "prev_cells": "the same of the past frame, where its cameras were, in the current vehicle's frame (1, N, D, P)",
    }

    @property
    def channels(self) -> int:
        """See ``LiftGraph``."""
        return self.detector.backbone.depth_net.context_conv.out_channels

    def geometry(self, frames: CameraFrames, *, past: CameraFrames | None) -> Tensors:
        """See ``LiftGraph``."""
        detector, here = self.detector, sensor_to_ego(frames)
        given = {
            "cameras": camera_numbers(frames, sensor2ego_BN44=here)[None],
            "cells": detector.backbone.cells(frames, sensor2ego_BN44=here),
        }
        if not self.frames_back:
            return given
        then = frames if past is None else past
        return {**given, "prev_cells": detector.past_cells(then.lidar2global_B44, then.cam2lidar_BN44, frames=frames)}

    def lifted(self, image_NCHW: Tensor, given: Tensors) -> Lifted:
        """See ``LiftGraph``."""
        return self.detector.backbone.lift(image_NCHW, camera_E27=given["cameras"][0])

    def encoded(self, lifted: Lifted, past: Lifted | None, given: Tensors) -> Encoded:
        """See ``LiftGraph``."""
        grid, cells = self.detector.grid, given["cells"]
        maps = [pooled(lifted, cells_BNDP=cells, grid=grid)]
        maps += [] if past is None else [pooled(past, cells_BNDP=given["prev_cells"], grid=grid)]
        return Encoded(self.detector.head.ground(torch.cat(maps, 1)), cells, lifted)

    def in_lidar(self, boxes: InstanceData, *, frame: Frame) -> InstanceData:
        """See ``LiftGraph``."""
        return in_lidar([boxes], lidar2grid_B44=lidar_to_grid(camera_frames([frame], device="cpu")))[0]
