"""BEVFormer's network: its parts by name, and the stages from images to box codes.

The stages are separate methods, so that a caller may stop, share or replace work between them:
``backbone_features``, ``neck_features``, ``encode``, ``decode``.

Shapes: B samples, T frames, N cameras, C channels, Q BEV cells, H W of an image or feature map.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmdet3d.structures import Det3DDataSample
from torch import Tensor

from qdbev.detectors.bevformer.frames.history import History
from qdbev.detectors.bevformer.head import BEVFormerHead, Encoded
from qdbev.detectors.images.batches import queue_frames
from qdbev.detectors.images.frame_batch import FrameBatch
from qdbev.detectors.images.network import ImageNetwork
from qdbev.detectors.queries.decoded import Decoded


class BEVFormerNetwork(ImageNetwork):
    """Backbone, neck and head; names as in the official checkpoints."""

    pts_bbox_head: BEVFormerHead

    def encode(self, image_features: list[Tensor], *, frames: FrameBatch, history: History | None) -> Encoded:
        """BEV features of one frame."""
        return self.pts_bbox_head.encode(image_features, frames=frames, history=history)

    def decode(self, bev_BQC: Tensor) -> Decoded:
        """Logits and box codes of every decoder layer."""
        return self.pts_bbox_head.decode(bev_BQC)

    def rolled_history(self, img_BTNCHW: Tensor, data_samples: list[Det3DDataSample]) -> History | None:
        """History of the current frame from the earlier frames of the queue, in eval mode and without gradients."""
        frames = queue_frames(data_samples, device=img_BTNCHW.device)
        # nothing before a frame at which every sample starts anew can matter
        start = max(step for step, frame in enumerate(frames) if step == 0 or not any(frame.follows))
        past = img_BTNCHW[:, start:-1]
        if past.shape[1] == 0:
            return None
        with torch.no_grad(), evaluating(self):
            levels = [level.unflatten(0, past.shape[:2]) for level in self.extract_feat(past.flatten(0, 1))]
            history = None
            for step in range(past.shape[1]):
                here = frames[start + step]
                encoded = self.encode([level[:, step] for level in levels], frames=here, history=history)
                history = History(encoded.bev_BQC, frames[start + step + 1].follows)
        return history

    def parts(self) -> dict[str, list[str]]:
        """The paper's four parts as paths of modules and parameters, together everything but the auxiliary heads."""
        head, transformer = "pts_bbox_head", "pts_bbox_head.transformer"
        encoder = [f"{transformer}.{name}" for name in ("encoder", "can_bus_mlp", "level_embeds", "cams_embeds")]
        decoder = [f"{transformer}.{name}" for name in ("decoder", "reference_points")]
        return {
            "backbone": ["img_backbone"],
            "neck": ["img_neck"],
            "encoder": encoder + [f"{head}.{name}" for name in ("bev_embedding", "positional_encoding")],
            "decoder": decoder
            + [f"{head}.{name}" for name in ("query_embedding", "cls_branches", "reg_branches", "code_weights")],
        }

    def first_positions(self) -> tuple[str, ...]:
        """Paths of the table of object queries and of the layer that turns it into their first positions."""
        return ("pts_bbox_head.query_embedding", "pts_bbox_head.transformer.reference_points")

    def output_layers(self) -> list[str]:
        """Paths of the last linear layers of the last decoder layer's branches: classification and regression."""
        branches: list[Any] = [self.pts_bbox_head.cls_branches[-1], self.pts_bbox_head.reg_branches[-1]]
        last: list[torch.nn.Module] = [branch[-1] for branch in branches]
        return [path for path, module in self.named_modules() if any(module is layer for layer in last)]

    def value_pairs(self) -> tuple[tuple[str, str], ...]:
        """Paths of (value_proj, output_proj) of each deformable attention.

        Between the two a channel is sampled, weighted and summed, apart from all others, which no watcher can see.
        """
        values = [path for path, _ in self.named_modules() if path.endswith(".value_proj")]
        owners = [path.removesuffix(".value_proj").removesuffix(".deformable_attention") for path in values]
        return tuple((value, f"{owner}.output_proj") for value, owner in zip(values, owners, strict=True))


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Puts every module into eval mode, and afterwards each back into its own."""
    modes = [(module, module.training) for module in model.modules()]
    for module, _ in modes:
        module.training = False
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
