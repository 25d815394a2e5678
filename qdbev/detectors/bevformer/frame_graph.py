"""One frame of BEVFormer as a graph of tensors alone: images, motion, cameras and the BEV before to boxes and this BEV.

Shapes: N cameras, Q BEV cells, K object queries, C channels, H W of an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmdet3d.structures import Det3DDataSample
from torch import Tensor

from qdbev.detectors.bevformer.frames.history import History
from qdbev.detectors.bevformer.network import BEVFormerNetwork
from qdbev.detectors.detector import Detections, Scene
from qdbev.detectors.frame_graph import Frame, FrameGraph, Tensors
from qdbev.detectors.images.batches import current_frames, images_of_sample
from qdbev.detectors.images.frame_batch import CAN_BUS_SIZE, FrameBatch
from qdbev.detectors.queries.decoded import Decoded, last_boxes

PREVIOUS, EXISTS = "prev_bev", "has_prev_bev"


class BEVFormerGraph(FrameGraph):
    """One sample; the history BEV goes in as ``prev_bev`` and comes out as ``bev``."""

    outputs = ("class_logits", "box_codes", "bev")
    carried: Mapping[str, str] = {"bev": PREVIOUS}  # never changed
    meanings: Mapping[str, str] = {
        "image": "images of the cameras, normalised and padded (1, N, 3, H, W)",
        "can_bus": "CAN bus with differences to the frame before in 0:3 [m] and 17 [degrees] (1, 18)",
        "lidar2img": "LiDAR metres to pixels of the network input (1, N, 4, 4)",
        PREVIOUS: "output bev of the frame before; not looked at where there is none (1, Q, C)",
        EXISTS: "1 where prev_bev is of the frame right before in this scene, else 0 (1,)",
        "class_logits": "logit of each class of each object query (1, K, classes)",
        "box_codes": "x, y [m], log width, log length, z [m], log height, sin, cos of heading, velocity (1, K, 10)",
        "bev": "BEV features, to be prev_bev of the next frame (1, Q, C)",
    }

    detector: BEVFormerNetwork

    def __init__(
        self, detector: BEVFormerNetwork, scene: Scene, *, max_boxes: int, centre_range: tuple[float, ...]
    ) -> None:
        """Holds the detector, in eval mode; ``scene`` gives the images' size and an example of the cameras."""
        super().__init__()
        self.detector = detector.eval()
        self.size_px, self.max_boxes, self.centre_range = scene.image_px, max_boxes, centre_range
        cameras, (height, width) = len(scene.lidar2img_N44), scene.image_px
        self.inputs = {
            "image": torch.zeros(1, cameras, 3, height, width),
            "can_bus": torch.zeros(1, CAN_BUS_SIZE),
            "lidar2img": scene.lidar2img_N44[None].float(),
            **self.start(),
        }

    def forward(
        self, image_1NCHW: Tensor, can_bus_118: Tensor, lidar2img_1N44: Tensor, previous_1QC: Tensor, exists_1: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits and box codes of the last decoder layer, and the BEV features."""
        height, width = self.size_px
        frames = FrameBatch(
            scenes=("",),
            indices=(0,),
            follows=(True,),
            can_bus_B18=can_bus_118,
            lidar2img_BN44=lidar2img_1N44,
            image_size_B2=torch.tensor([[float(width), float(height)]]),
        )
        levels = self.detector.extract_feat(image_1NCHW)
        encoded = self.detector.encode(levels, frames=frames, history=History(previous_1QC, exists_1 > 0.5))
        decoded = self.detector.pts_bbox_head.decode_last(encoded.bev_BQC)
        return decoded.logits_LBKC[-1], decoded.code_LBK10[-1], encoded.bev_BQC

    def feeds(
        self, inputs: Mapping[str, Any], sample: Det3DDataSample, *, place: int, before: Sequence[Frame] = ()
    ) -> Tensors:
        """See ``FrameGraph``."""
        images = images_of_sample(inputs, sample, place=place, shape=self.inputs["image"].shape)
        frames = current_frames([sample], device=images.device)
        return {"image": images, "can_bus": frames.can_bus_B18, "lidar2img": frames.lidar2img_BN44}

    def start(self) -> Tensors:
        """See ``FrameGraph``."""
        return {
            PREVIOUS: torch.zeros(1, *self.detector.pts_bbox_head.bev_embedding.weight.shape),
            EXISTS: torch.zeros(1),
        }

    def carry(self, outputs: Mapping[str, Tensor]) -> Tensors:
        """See ``FrameGraph``."""
        return {PREVIOUS: outputs["bev"], EXISTS: torch.ones(1)}

    def detections(self, outputs: Mapping[str, Tensor], *, frame: Frame) -> Detections:
        """See ``FrameGraph``."""
        decoded = Decoded(outputs["class_logits"][None], outputs["box_codes"][None])
        boxes = last_boxes(decoded, max_boxes=self.max_boxes, centre_range=self.centre_range)[0]
        return [(str(frame["token"]), boxes)]
