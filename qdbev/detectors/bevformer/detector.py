"""BEVFormer (arXiv 2203.17270) as an mmdet3d detector: images of six cameras and their history to boxes.

Shapes: B samples, T frames, N cameras, C channels, Q BEV cells, D heights, H W of an image or feature map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from mmdet3d.registry import MODELS
from mmdet3d.structures import Det3DDataSample
from mmengine.structures import InstanceData
from torch import Tensor

from qdbev.detectors.auxiliary import gather_objects
from qdbev.detectors.bevformer.auxiliary import AuxiliaryHeads
from qdbev.detectors.bevformer.counting import (
    feature_sizes,
    official_repeats,
    one_frame,
    sampling_repeats,
    shape_run,
)
from qdbev.detectors.bevformer.frame_graph import BEVFormerGraph
from qdbev.detectors.bevformer.frames.history import History, StreamingHistory
from qdbev.detectors.bevformer.head import BEVFormerHead, Encoded
from qdbev.detectors.bevformer.network import BEVFormerNetwork
from qdbev.detectors.detector import Ability, Detections, Scene, Stages
from qdbev.detectors.features import Features
from qdbev.detectors.images.batches import (
    checked_images,
    current_frames,
    current_tokens,
    ground_truth,
)
from qdbev.detectors.images.frame_batch import FrameBatch
from qdbev.detectors.queries.decoded import CENTRE_RANGE_M, Decoded, last_boxes, losses


@MODELS.register_module()
class BEVFormer(BEVFormerNetwork):
    """The detector. Build it with ``build_bevformer``, or from the registry with the three dicts that it makes.

    A batch is ``{"img": (B, T, N, 3, H, W)}`` with one data sample each, whose metainfo ``frames`` describes the T
    frames; the last is the current one. Only the current frame gets gradients.
    """

    memory_part = "encoder"
    shape_run = shape_run
    feature_sizes = feature_sizes
    sampling_repeats = sampling_repeats
    official_repeats = official_repeats

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
            auxiliary_weights: Weights of their losses where they differ from the usual ones.
            max_boxes: Boxes per sample at most.
            centre_range_m: Boxes with their centre outside are dropped.
            data_preprocessor: As in mmengine; images come normalised, so none is needed.
            init_cfg: As in mmengine.
        """
        super().__init__(img_backbone, img_neck, pts_bbox_head, data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.auxiliary = _auxiliary(pts_bbox_head, self.pts_bbox_head, auxiliary_weights) if auxiliary else None
        self.motion_weight = motion_weight
        self.max_boxes = max_boxes
        self.centre_range_m = tuple(centre_range_m)
        self.history = StreamingHistory()

    def losses(self, decoded: Decoded, data_samples: list[Det3DDataSample]) -> dict[str, Tensor]:
        """Detection losses of every decoder layer, by official name."""
        weights = self.pts_bbox_head.code_weights
        return losses(decoded, data_samples, code_weights_10=weights, motion_weight=self.motion_weight)

    def boxes(self, decoded: Decoded) -> list[InstanceData]:
        """Boxes of the last decoder layer, best first, one ``InstanceData`` per sample."""
        return last_boxes(decoded, max_boxes=self.max_boxes, centre_range=self.centre_range_m)

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
        terms = self.losses(decoded, data_samples)
        if self.auxiliary is not None:
            boxes, labels = ground_truth(data_samples, device=encoded.bev_BQC.device)
            terms |= self.auxiliary(
                encoded.bev_BQC,
                image_BNCHW=image[0],
                frames=current_frames(data_samples, device=encoded.bev_BQC.device),
                objects=gather_objects(boxes, labels),
            )
        return terms, _features(image, encoded, decoded)

    def extract(self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample]) -> Features:
        """Features of the current frame, its history rolled through the queue; the decoder does not run."""
        image, encoded = self._encoded(inputs, data_samples)
        return Features(image, encoded.bev_BQC, encoded.bev_mask_BNQD)

    def extract_with_outputs(self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample]) -> Features:
        """The same, and the decoder's outputs."""
        image, encoded = self._encoded(inputs, data_samples)
        return _features(image, encoded, self.decode(encoded.bev_BQC))

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

    def detections(self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample]) -> Detections:
        """Token and boxes of each sample's current frame, as ``predict`` finds them."""
        predicted = self(inputs, data_samples, mode="predict")
        return list(zip(current_tokens(predicted), [sample.pred_instances_3d for sample in predicted], strict=True))

    # what pipelines ask for: see ``qdbev.detectors.detector.Detector``

    def set_code_weights(self, weights: Sequence[float]) -> None:
        """Weigh the box code's numbers in the loss: a setting, though the head keeps it among its parameters."""
        with torch.no_grad():
            self.pts_bbox_head.code_weights.copy_(torch.tensor(weights))

    def cannot(self, ability: Ability) -> str:
        """Nothing: it runs part by part, by shapes alone and as a graph."""
        return ""

    def frame_graph(self, scene: Scene) -> BEVFormerGraph:
        """See ``BEVFormerGraph``."""
        return BEVFormerGraph(self, scene, max_boxes=self.max_boxes, centre_range=self.centre_range_m)

    def new_history(self, *, scenes: int) -> StreamingHistory:
        """An empty memory of so many scenes."""
        return StreamingHistory(max_scenes=scenes)

    def stages(
        self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample], *, history: StreamingHistory
    ) -> Stages:
        """The last frame of every sample's queue part by part, with the history that the memory holds of it."""
        images = checked_images(inputs, data_samples)[:, -1]
        frames, tokens = current_frames(data_samples, device=images.device), current_tokens(data_samples)
        return self._stages(
            images,
            frames=frames,
            tokens=tokens,
            past=cache(lambda: history.lookup(frames)),
            remember=lambda bev_BQC: history.store(bev_BQC, frames=frames),
        )

    def noise_stages(self, scene: Scene, *, device: torch.device) -> Stages:
        """One frame of noise with a history of noise."""
        images, frames, history = one_frame(self, scene, device=device)
        images.normal_()
        history.bev_BQC.normal_()
        return self._stages(images, frames=frames, tokens=["noise"], past=lambda: history, remember=lambda _: None)

    def _stages(
        self,
        images_BNCHW: Tensor,
        *,
        frames: FrameBatch,
        tokens: Sequence[str],
        past: Callable[[], History | None],
        remember: Callable[[Tensor], None],
    ) -> Stages:
        cameras = images_BNCHW.shape[1]
        return Stages(
            first=images_BNCHW,
            steps={
                "backbone": self.backbone_features,
                "neck": lambda maps: self.neck_features(maps, cameras=cameras),
                "encoder": lambda levels: self.encode(levels, frames=frames, history=past()).bev_BQC,
                "decoder": self.decode,
            },
            outputs=lambda decoded: (decoded.logits_LBKC[-1], decoded.code_LBK10[-1]),
            detections=lambda decoded: list(zip(tokens, self.boxes(decoded), strict=True)),
            memory_part=self.memory_part,
            remember=remember,
        )

    def _forward(self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample]) -> Decoded:
        return self.decode(self._encoded(inputs, data_samples)[1].bev_BQC)

    def _encoded(self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample]) -> tuple[list[Tensor], Encoded]:
        """Neck levels and BEV features of the current frame, its history rolled through the queue."""
        img = checked_images(inputs, data_samples)
        history = self.rolled_history(img, data_samples)
        image = self.extract_feat(img[:, -1])
        return image, self.encode(image, frames=current_frames(data_samples, device=img.device), history=history)


def _features(image: list[Tensor], encoded: Encoded, decoded: Decoded) -> Features:
    return Features(image, encoded.bev_BQC, encoded.bev_mask_BNQD, decoded.logits_LBKC, decoded.code_LBK10)


def _auxiliary(head_cfg: dict[str, Any], head: BEVFormerHead, weights: dict[str, float] | None) -> AuxiliaryHeads:
    return AuxiliaryHeads(
        channels=head_cfg["channels"],
        classes=head_cfg["classes"],
        grid=head.transformer.grid,
        weights=weights,
    )
