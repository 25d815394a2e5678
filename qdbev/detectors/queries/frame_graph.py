"""One frame of a detector of object queries as a graph of tensors alone: images and cameras to boxes, nothing carried.

Shapes: N cameras, K object queries, H W of an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmdet3d.structures import Det3DDataSample
from torch import Tensor

from qdbev.detectors.detector import Detections, Scene
from qdbev.detectors.frame_graph import Frame, FrameGraph, Tensors
from qdbev.detectors.images.batches import current_frames, images_of_sample
from qdbev.detectors.images.frame_batch import FrameBatch, frame_of_shapes
from qdbev.detectors.images.network import ImageNetwork
from qdbev.detectors.queries.decoded import Decoded, last_boxes
from qdbev.detectors.queries.head import QueryHead

_MEANINGS = {
    "image": "images of the cameras, normalised and padded (1, N, 3, H, W)",
    "lidar2img": "LiDAR metres to pixels of the network input (1, N, 4, 4)",
    "img2lidar": "inverse of lidar2img: pixels times depth, depth and 1 to LiDAR metres (1, N, 4, 4)",
    "class_logits": "logit of each class of each object query (1, K, classes)",
    "box_codes": "x, y [m], log width, log length, z [m], log height, sin, cos of heading, velocity (1, K, 10)",
}


class QueryGraph(FrameGraph):
    """One sample; what of the cameras goes in is said by ``camera_input``, and a subclass may take something else."""

    outputs = ("class_logits", "box_codes")
    carried: Mapping[str, str] = {}  # never changed
    camera_input = "lidar2img"

    detector: ImageNetwork

    def __init__(
        self, detector: ImageNetwork, scene: Scene, *, max_boxes: int, centre_range: tuple[float, ...]
    ) -> None:
        """Holds the detector, in eval mode; ``scene`` gives the images' size and an example of the cameras."""
        super().__init__()
        self.detector = detector.eval()
        self.scene, self.max_boxes, self.centre_range = scene, max_boxes, centre_range
        images, frames = frame_of_shapes(scene, device="cpu", geometry="cpu")
        self.inputs = {"image": torch.zeros_like(images), self.camera_input: self.cameras(frames)}
        self.meanings = {name: _MEANINGS[name] for name in (*self.inputs, *self.outputs)}

    def cameras(self, frames: FrameBatch) -> Tensor:
        """What of the cameras goes in (1, N, 4, 4)."""
        return frames.lidar2img_BN44

    def frames(self, cameras_1N44: Tensor) -> FrameBatch:
        """The frame that the head sees, of what of the cameras goes in."""
        height, width = self.scene.image_px
        return FrameBatch(
            scenes=("",),
            indices=(0,),
            follows=(False,),
            can_bus_B18=torch.zeros(1, 18),
            lidar2img_BN44=cameras_1N44,
            image_size_B2=torch.tensor([[float(width), float(height)]]),
        )

    def forward(self, image_1NCHW: Tensor, cameras_1N44: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and box codes of the last decoder layer."""
        frames, head = self.frames(cameras_1N44), self.head
        encoded = head.encode(self.detector.extract_feat(image_1NCHW), frames=frames)
        decoded = head.decode_last(encoded, frames=frames)
        return decoded.logits_LBKC[-1], decoded.code_LBK10[-1]

    @property
    def head(self) -> QueryHead:
        """The detector's."""
        head: QueryHead = self.detector.pts_bbox_head
        return head

    def feeds(
        self, inputs: Mapping[str, Any], sample: Det3DDataSample, *, place: int, before: Sequence[Frame] = ()
    ) -> Tensors:
        """See ``FrameGraph``."""
        images = images_of_sample(inputs, sample, place=place, shape=self.inputs["image"].shape)
        return {"image": images, self.camera_input: self.cameras(current_frames([sample], device=images.device))}

    def detections(self, outputs: Mapping[str, Tensor], *, frame: Frame) -> Detections:
        """See ``FrameGraph``."""
        decoded = Decoded(outputs["class_logits"][None], outputs["box_codes"][None])
        boxes = last_boxes(decoded, max_boxes=self.max_boxes, centre_range=self.centre_range)[0]
        return [(str(frame["token"]), boxes)]
