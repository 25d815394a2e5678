"""BEVFormer (arXiv 2203.17270) as an mmdet3d detector: images of six cameras and their history to boxes.

The stages are separate methods, so that a caller may stop, share or replace work between them:
``backbone_features``, ``neck_features``, ``encode``, ``decode``, then ``losses`` or ``boxes``.

Shapes: B samples, T frames, N cameras, C channels, Q BEV cells, D heights, H W of an image or feature map.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmdet3d.models.detectors import Base3DDetector
from mmdet3d.registry import MODELS
from mmdet3d.structures import Det3DDataSample
from mmengine.structures import InstanceData
from torch import Tensor

from qdbev.detectors.bevformer.auxiliary import AuxiliaryHeads, AuxiliaryWeights, gather_objects
from qdbev.detectors.bevformer.frames.batches import checked_images, current_frames, ground_truth, queue_frames
from qdbev.detectors.bevformer.frames.frame_batch import FrameBatch
from qdbev.detectors.bevformer.frames.history import History, StreamingHistory
from qdbev.detectors.bevformer.head import BEVFormerHead, Decoded, Encoded
from qdbev.detectors.boxes.box_code import encode_boxes, top_boxes
from qdbev.detectors.boxes.loss import detection_losses
from qdbev.detectors.features import Features

CENTRE_RANGE_M = (-61.2, -61.2, -10.0, 61.2, 61.2, 10.0)


@MODELS.register_module()
class BEVFormer(Base3DDetector):
    """The detector. Build it with ``build_bevformer``, or from the registry with the three dicts that it makes.

    A batch is ``{"img": (B, T, N, 3, H, W)}`` with one data sample each, whose metainfo ``frames`` describes the T
    frames; the last is the current one. Only the current frame gets gradients.
    """

    def __init__(
        self,
        img_backbone: dict[str, Any],
        img_neck: dict[str, Any],
        pts_bbox_head: dict[str, Any],
        motion_weight: float = 0.0,
        auxiliary: bool = False,
        auxiliary_weights: dict[str, float] | None = None,
        max_boxes: int = 300,
        centre_range_m: Sequence[float] = CENTRE_RANGE_M,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        """Builds the parts from the registry.

        Args:
            img_backbone: An mmdet backbone.
            img_neck: An mmdet neck.
            pts_bbox_head: A ``BEVFormerHead``.
            motion_weight: Weight of the squared error of matched queries' heading and velocity.
            auxiliary: With the dense heads that only training uses.
            auxiliary_weights: Weights of their losses where they differ from ``AuxiliaryWeights``.
            max_boxes: Boxes per sample at most.
            centre_range_m: Boxes with their centre outside are dropped.
            data_preprocessor: As in mmengine; images come normalised, so none is needed.
            init_cfg: As in mmengine.
        """
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.img_backbone = MODELS.build(img_backbone)
        self.img_neck = MODELS.build(img_neck)
        self.pts_bbox_head: BEVFormerHead = MODELS.build(pts_bbox_head)
        self.auxiliary = _auxiliary(pts_bbox_head, self.pts_bbox_head, auxiliary_weights or {}) if auxiliary else None
        self.motion_weight = motion_weight
        self.max_boxes = max_boxes
        self.centre_range_m = tuple(centre_range_m)
        self.history = StreamingHistory()

    # stages

    def backbone_features(self, img_BNCHW: Tensor) -> tuple[Tensor, ...]:
        """Backbone maps of all images, each (B * N, C, H, W)."""
        images = img_BNCHW.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        return tuple(self.img_backbone(images))

    def neck_features(self, backbone_maps: Sequence[Tensor], *, cameras: int) -> list[Tensor]:
        """Neck levels (B, N, C, H, W) from backbone maps."""
        return [level.unflatten(0, (-1, cameras)) for level in self.img_neck(tuple(backbone_maps))]

    def encode(self, image_features: list[Tensor], *, frames: FrameBatch, history: History | None) -> Encoded:
        """BEV features of one frame."""
        return self.pts_bbox_head.encode(image_features, frames=frames, history=history)

    def decode(self, bev_BQC: Tensor) -> Decoded:
        """Logits and box codes of every decoder layer."""
        return self.pts_bbox_head.decode(bev_BQC)

    def losses(self, decoded: Decoded, data_samples: list[Det3DDataSample]) -> dict[str, Tensor]:
        """Detection losses of every decoder layer, by official name."""
        boxes, labels = ground_truth(data_samples, device=decoded.logits_LBKC.device)
        return detection_losses(
            decoded.logits_LBKC,
            decoded.code_LBK10,
            labels=labels,
            targets=[encode_boxes(each) for each in boxes],
            code_weights_10=self.pts_bbox_head.code_weights,
            motion_weight=self.motion_weight,
        )

    def boxes(self, decoded: Decoded) -> list[InstanceData]:
        """Boxes of the last decoder layer, best first, one ``InstanceData`` per sample."""
        results = []
        for logits_KC, code_K10 in zip(decoded.logits_LBKC[-1], decoded.code_LBK10[-1], strict=True):
            boxes, scores, labels = top_boxes(
                logits_KC, code_K10, max_boxes=self.max_boxes, centre_range=self.centre_range_m
            )
            results.append(InstanceData(bboxes_3d=boxes, scores_3d=scores, labels_3d=labels))
        return results

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
        return [path for path, module in self.named_modules() if any(module is one for one in last)]

    def value_pairs(self) -> tuple[tuple[str, str], ...]:
        """Paths of (value_proj, output_proj) of each deformable attention.

        Between the two a channel is sampled, weighted and summed, apart from all others, which no watcher can see.
        """
        values = [path for path, _ in self.named_modules() if path.endswith(".value_proj")]
        owners = [path.removesuffix(".value_proj").removesuffix(".deformable_attention") for path in values]
        return tuple((value, f"{owner}.output_proj") for value, owner in zip(values, owners, strict=True))

    # mmdet3d's interface

    def forward(
        self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample], mode: str = "tensor"
    ) -> Any:  # the type follows the mode, as in mmdet3d
        """Modes "loss", "predict" and "tensor" as in mmdet3d, and those for distillation.

        The student's is "loss_with_features"; the teacher's "features", or "features_with_outputs" with the decoder.

        Raises:
            ValueError: unknown mode.
        """
        modes = {
            "loss": self.loss,
            "predict": self.predict,
            "tensor": self._forward,
            "loss_with_features": self.loss_with_features,
            "features": self.extract,
            "features_with_outputs": self.extract_with_outputs,
        }
        if mode not in modes:
            raise ValueError(f"mode is {mode!r}, expected one of {list(modes)}")
        return modes[mode](inputs, data_samples)

    def loss(self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample]) -> dict[str, Tensor]:
        """Losses of the current frame, the auxiliary ones too where the model has their heads."""
        return self.loss_with_features(inputs, data_samples)[0]

    def loss_with_features(
        self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample]
    ) -> tuple[dict[str, Tensor], Features]:
        """Losses, and what distillation compares, of one forward pass."""
        image, encoded = self._encoded(inputs, data_samples)
        decoded = self.decode(encoded.bev_BQC)
        losses = self.losses(decoded, data_samples)
        if self.auxiliary is not None:
            boxes, labels = ground_truth(data_samples, device=encoded.bev_BQC.device)
            losses |= self.auxiliary(
                encoded.bev_BQC,
                image_BNCHW=image[0],
                frames=current_frames(data_samples, device=encoded.bev_BQC.device),
                objects=gather_objects(boxes, labels),
            )
        return losses, Features(image, encoded.bev_BQC, encoded.bev_mask_BNQD, decoded.logits_LBKC, decoded.code_LBK10)

    def extract(self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample]) -> Features:
        """Features of the current frame, its history rolled through the queue; the decoder does not run."""
        image, encoded = self._encoded(inputs, data_samples)
        return Features(image, encoded.bev_BQC, encoded.bev_mask_BNQD)

    def extract_with_outputs(self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample]) -> Features:
        """The same, and the decoder's outputs."""
        image, encoded = self._encoded(inputs, data_samples)
        decoded = self.decode(encoded.bev_BQC)
        return Features(image, encoded.bev_BQC, encoded.bev_mask_BNQD, decoded.logits_LBKC, decoded.code_LBK10)

    def predict(self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample]) -> list[Det3DDataSample]:
        """Boxes of the current frame as ``pred_instances_3d``.

        Queues of one frame are a stream: the history is what this model saw last of the same scene, if that was the
        frame before. Longer queues bring their own history and leave the stream alone.
        """
        img = checked_images(inputs, data_samples)
        frames = current_frames(data_samples, device=img.device)
        streaming = img.shape[1] == 1
        history = self.history.lookup(frames) if streaming else self.rolled_history(img, data_samples)
        encoded = self.encode(self.extract_feat(img[:, -1]), frames=frames, history=history)
        if streaming:
            self.history.store(encoded.bev_BQC, frames=frames)
        for sample, boxes in zip(data_samples, self.boxes(self.decode(encoded.bev_BQC)), strict=True):
            sample.pred_instances_3d = boxes
        return data_samples

    def detections(
        self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample]
    ) -> list[tuple[str, InstanceData]]:
        """Token and boxes of each sample's current frame, as ``predict`` finds them."""
        found = self(inputs, data_samples, mode="predict")
        return [(sample.metainfo["frames"][-1]["token"], sample.pred_instances_3d) for sample in found]

    def extract_feat(self, img_BNCHW: Tensor) -> list[Tensor]:
        """Neck levels (B, N, C, H, W) of one frame."""
        return self.neck_features(self.backbone_features(img_BNCHW), cameras=img_BNCHW.shape[1])

    def rolled_history(self, img_BTNCHW: Tensor, data_samples: list[Det3DDataSample]) -> History | None:
        """History of the current frame from the earlier frames of the queue, in eval mode and without gradients."""
        frames = queue_frames(data_samples, device=img_BTNCHW.device)
        # nothing before a frame at which every sample starts anew can matter
        start = max(step for step, each in enumerate(frames) if step == 0 or not any(each.follows))
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

    def _forward(self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample]) -> Decoded:
        return self.decode(self._encoded(inputs, data_samples)[1].bev_BQC)

    def _encoded(self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample]) -> tuple[list[Tensor], Encoded]:
        """Neck levels and BEV features of the current frame, its history rolled through the queue."""
        img = checked_images(inputs, data_samples)
        history = self.rolled_history(img, data_samples)
        image = self.extract_feat(img[:, -1])
        return image, self.encode(image, frames=current_frames(data_samples, device=img.device), history=history)


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


def _auxiliary(head_cfg: dict[str, Any], head: BEVFormerHead, weights: dict[str, float]) -> AuxiliaryHeads:
    return AuxiliaryHeads(
        channels=head_cfg["channels"],
        classes=head_cfg["classes"],
        grid=head.transformer.grid,
        weights=AuxiliaryWeights(**weights),
    )
