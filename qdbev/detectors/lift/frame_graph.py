"""One frame of a detector that lifts images as a graph of tensors alone: images and cells in, a box code a cell out.

Where points lie follows from camera matrices in double precision, which devices do not have, and a point on the border
of a cell must not fall into another one by a rounding. So cells are computed where the graph is fed. A past frame is
carried before it is laid down, as the detector keeps it: ``frames_back`` frames, the oldest first, which is used.

Shapes: F frames back, N cameras, D depths, P pixels, C channels, K = tasks times cells, H W of an image.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmdet3d.structures import Det3DDataSample
from mmengine.structures import InstanceData
from torch import Tensor

from qdbev.detectors.centre import boxes_of_outputs, circles_of
from qdbev.detectors.detector import Detections, Scene
from qdbev.detectors.frame_graph import Frame, FrameGraph, Tensors
from qdbev.detectors.images.batches import images_of_sample
from qdbev.detectors.lift.counting import one_frame
from qdbev.detectors.lift.detector import LiftDetector
from qdbev.detectors.lift.frames import CameraFrames, camera_frames
from qdbev.detectors.lift.lifted import Lifted
from qdbev.detectors.lift.outputs import Encoded

EXISTS = "has_prev"
CARRIED = {"depths": "prev_depths", "features": "prev_features"}
_MEANINGS = {
    "image": "images of the cameras, normalised and padded (1, N, 3, H, W)",
    "cells": "cell of the ground of every point of the frustums, row by row, -1 where it lies in none (1, N, D, P)",
    "prev_depths": "output depths of the frame before; not looked at where there is none (F, N, D, P)",
    "prev_features": "output features of the frame before; not looked at where there is none (F, N, P, C)",
    EXISTS: "1 where these are of the frame right before in this scene, else 0 (1,)",
    "class_logits": "logit of each class, of every task and cell; -20 of classes of other tasks (1, K, classes)",
    "box_codes": "x, y [m], log width, log length, z [m], log height, sin, cos of heading, velocity (1, K, 10)",
    "depths": "probability of each depth at every pixel, of this frame last, to be prev_depths (F, N, D, P)",
    "features": "features of every pixel, of this frame last, to be prev_features (F, N, P, C)",
}


class LiftGraph(FrameGraph):
    """One sample. What of its cameras goes in, and what is done with it, a kind of detector says."""

    detector: LiftDetector
    own_meanings: Mapping[str, str] = {}
    """Of what ``geometry`` gives besides ``cells``."""

    def __init__(self, detector: LiftDetector, scene: Scene) -> None:
        """Holds the detector, in eval mode; ``scene`` gives the images' size and an example of the cameras."""
        super().__init__()
        self.detector, self.frames_back = detector.eval(), detector.frames_back
        self.carried = CARRIED if self.frames_back else {}
        self.circles_m2 = [circle.squared_m2 for circle in circles_of(detector.tasks)]
        self.outputs = ("class_logits", "box_codes", *self.carried)
        images, frames = one_frame(scene, device="cpu")
        self.inputs = {"image": torch.zeros_like(images), **self.geometry(frames, past=None)}
        self.inputs |= self.start()
        meanings = {**_MEANINGS, **self.own_meanings}
        self.meanings = {name: meanings[name] for name in (*self.inputs, *self.outputs)}

    @property
    @abstractmethod
    def channels(self) -> int:
        """Features of a pixel."""

    @abstractmethod
    def geometry(self, frames: CameraFrames, *, past: CameraFrames | None) -> Tensors:
        """What of the cameras goes in, ``cells`` among it; ``past`` is None at the start of a scene."""

    @abstractmethod
    def lifted(self, image_NCHW: Tensor, given: Tensors) -> Lifted:
        """Depths and features of every pixel of the neck's map."""

    @abstractmethod
    def encoded(self, lifted: Lifted, past: Lifted | None, given: Tensors) -> Encoded:
        """Features of the ground."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Logits and box codes, and what the next frame needs."""
        given, detector = dict(zip(self.inputs, inputs, strict=True)), self.detector
        image = detector.neck_features(detector.backbone_features(given["image"]))
        lifted = self.lifted(image, given)
        memory = self._memory(lifted, given) if self.frames_back else None
        past = None if memory is None else Lifted(memory.depth_EDP[0], memory.context_EPC[0])
        outputs = detector.outputs(detector.decode(self.encoded(lifted, past, given)))
        return outputs if memory is None else (*outputs, *self._kept(memory, lifted))

    def _memory(self, lifted: Lifted, given: Tensors) -> Lifted:
        """The frames before, oldest first; at the start of a scene the current one stands for all of them."""
        exists = given[EXISTS] > 0.5
        return Lifted(
            torch.where(exists, given[CARRIED["depths"]], lifted.depth_EDP[None]),
            torch.where(exists, given[CARRIED["features"]], lifted.context_EPC[None]),
        )

    def _kept(self, memory: Lifted, lifted: Lifted) -> tuple[Tensor, Tensor]:
        pairs = ((memory.depth_EDP, lifted.depth_EDP), (memory.context_EPC, lifted.context_EPC))
        depths, features = (torch.cat([before[1:], now[None]]) for before, now in pairs)
        return depths, features

    def feeds(
        self, inputs: Mapping[str, Any], sample: Det3DDataSample, *, place: int, before: Sequence[Frame] = ()
    ) -> Tensors:
        """See ``FrameGraph``."""
        images = images_of_sample(inputs, sample, place=place, shape=self.inputs["image"].shape)
        frames = camera_frames([sample.metainfo["frames"][-1]], device="cpu")
        past = camera_frames(before[:1], device="cpu") if before else None
        return {"image": images, **self.geometry(frames, past=past)}

    def start(self) -> Tensors:
        """See ``FrameGraph``."""
        if not self.frames_back:
            return {}
        _, cameras, depths, pixels = self.inputs["cells"].shape
        shape = (self.frames_back, cameras)
        return {
            CARRIED["depths"]: torch.zeros(*shape, depths, pixels),
            CARRIED["features"]: torch.zeros(*shape, pixels, self.channels),
            EXISTS: torch.zeros(1),
        }

    def carry(self, outputs: Mapping[str, Tensor]) -> Tensors:
        """See ``FrameGraph``."""
        carried = {name: outputs[output] for output, name in self.carried.items()}
        return {**carried, EXISTS: torch.ones(1)} if carried else {}

    def detections(self, outputs: Mapping[str, Tensor], *, frame: Frame) -> Detections:
        """See ``FrameGraph``: peaks become boxes, and what overlaps a better one is suppressed."""
        detector = self.detector
        (boxes,) = boxes_of_outputs(
            outputs["class_logits"], outputs["box_codes"], classes=detector.tasks, decoding=detector.decoding
        )
        return [(str(frame["token"]), self.in_lidar(boxes, frame=frame))]

    def in_lidar(self, boxes: InstanceData, *, frame: Frame) -> InstanceData:
        """Boxes of the grid's frame in that of the LiDAR: the same, where they are one."""
        return boxes
