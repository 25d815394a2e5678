"""A detector whose object queries look at the camera images of one frame: PETR, DETR3D.

Without a bird's-eye view, distillation compares the features of the last layer's queries in place of BEV cells, and a
camera sees a query where the centre that its box code says lies in the image.

Shapes: B samples, N cameras, K object queries, C channels, L decoder layers, H W of an image or feature map.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, ClassVar

import torch
from mmdet3d.structures import Det3DDataSample
from mmengine.structures import InstanceData
from torch import Tensor

from qdbev.detectors.auxiliary import ImageHead, gather_objects
from qdbev.detectors.detector import Ability, Detections, NoHistory, Scene, Stages
from qdbev.detectors.features import Features
from qdbev.detectors.frame_graph import FrameGraph
from qdbev.detectors.images.batches import checked_images, current_frames, current_tokens, ground_truth
from qdbev.detectors.images.frame_batch import FrameBatch, frame_of_shapes
from qdbev.detectors.images.network import ImageNetwork
from qdbev.detectors.images.projection import project_each
from qdbev.detectors.queries.decoded import CENTRE_RANGE_M, Decoded, last_boxes, losses
from qdbev.detectors.queries.frame_graph import QueryGraph
from qdbev.detectors.queries.head import QueryHead
from qdbev.ops.deformable_convolution import deformable_shapes


class QueryDetector(ImageNetwork):
    """The detector; its head and the paths of its parts are those of a subclass.

    A batch is ``{"img": (B, T, N, 3, H, W)}`` with one data sample each, as BEVFormer's; the last frame is looked at.
    """

    memory_part = None
    graph_type: ClassVar[type[QueryGraph]] = QueryGraph
    pts_bbox_head: QueryHead

    def __init__(
        self,
        img_backbone: dict[str, Any],
        img_neck: dict[str, Any],
        pts_bbox_head: dict[str, Any],
        motion_weight: float = 0.0,
        auxiliary: bool = False,
        max_boxes: int = 300,
        centre_range_m: Sequence[float] = CENTRE_RANGE_M,
        data_preprocessor: dict[str, Any] | None = None,
        init_cfg: dict[str, Any] | None = None,
    ) -> None:
        """Builds the parts from the registry.

        Args:
            img_backbone: An mmdet backbone.
            img_neck: An mmdet neck.
            pts_bbox_head: The head.
            motion_weight: Weight of the squared error of matched queries' heading and velocity.
            auxiliary: With the dense head on image features that only training uses.
            max_boxes: Boxes per sample at most.
            centre_range_m: Boxes with their centre outside are dropped.
            data_preprocessor: As in mmengine; images come normalised, so none is needed.
            init_cfg: As in mmengine.
        """
        super().__init__(img_backbone, img_neck, pts_bbox_head, data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.auxiliary = (
            ImageHead(channels=pts_bbox_head["channels"], classes=pts_bbox_head["classes"]) if auxiliary else None
        )
        self.motion_weight = motion_weight
        self.max_boxes = max_boxes
        self.centre_range_m = tuple(centre_range_m)
        self.history = NoHistory()

    def losses(self, decoded: Decoded, data_samples: list[Det3DDataSample]) -> dict[str, Tensor]:
        """Detection losses of every decoder layer, by official name."""
        weights = self.pts_bbox_head.code_weights
        return losses(decoded, data_samples, code_weights_10=weights, motion_weight=self.motion_weight)

    def boxes(self, decoded: Decoded) -> list[InstanceData]:
        """Boxes of the last decoder layer, best first, one ``InstanceData`` per sample."""
        return last_boxes(decoded, max_boxes=self.max_boxes, centre_range=self.centre_range_m)

    def decoded(self, levels: list[Tensor], *, frames: FrameBatch) -> Decoded:
        """What the decoder gives of the neck's levels."""
        head = self.pts_bbox_head
        return head.decode(head.encode(levels, frames=frames), frames=frames)

    # mmdet3d's interface

    def forward(
        self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample], mode: str = "tensor"
    ) -> Any:  # the type follows the mode, as in mmdet3d
        """Modes "loss", "predict" and "tensor" as in mmdet3d, and those for distillation.

        The student's is "loss_with_features"; the teacher's "features". "features_with_outputs" is the same: here the
        decoder gives the features.

        Raises:
            ValueError: unknown mode.
        """
        modes = {
            "loss": self.loss,
            "predict": self.predict,
            "tensor": self._forward,
            "loss_with_features": self.loss_with_features,
            "features": self.extract,
            "features_with_outputs": self.extract,
        }
        if mode not in modes:
            raise ValueError(f"mode is {mode!r}, expected one of {list(modes)}")
        return modes[mode](inputs, data_samples)

    def loss(self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample]) -> dict[str, Tensor]:
        """Losses of the last frame, the auxiliary ones too where the model has their head."""
        return self.loss_with_features(inputs, data_samples)[0]

    def loss_with_features(
        self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample]
    ) -> tuple[dict[str, Tensor], Features]:
        """Losses, and what distillation compares, of one forward pass."""
        levels, decoded, frames = self._run(inputs, data_samples)
        terms = self.losses(decoded, data_samples)
        if self.auxiliary is not None:
            objects = gather_objects(*ground_truth(data_samples, device=levels[0].device))
            terms |= self.auxiliary(levels[0], cameras=frames, objects=objects)
        return terms, self._features(levels, decoded, frames=frames)

    def extract(self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample]) -> Features:
        """What distillation compares."""
        levels, decoded, frames = self._run(inputs, data_samples)
        return self._features(levels, decoded, frames=frames)

    def predict(self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample]) -> list[Det3DDataSample]:
        """Boxes of the last frame as ``pred_instances_3d``."""
        for sample, boxes in zip(data_samples, self.boxes(self._forward(inputs, data_samples)), strict=True):
            sample.pred_instances_3d = boxes
        return data_samples

    def detections(self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample]) -> Detections:
        """Token and boxes of each sample's last frame, as ``predict`` finds them."""
        predicted = self(inputs, data_samples, mode="predict")
        return list(zip(current_tokens(predicted), [sample.pred_instances_3d for sample in predicted], strict=True))

    # what pipelines ask for: see ``qdbev.detectors.detector.Detector``

    @abstractmethod
    def parts(self) -> dict[str, list[str]]:
        """The paper's four parts as paths of modules and parameters, together everything."""

    def value_pairs(self) -> tuple[tuple[str, str], ...]:
        """None: no channel passes between two layers apart from all others."""
        return ()

    def set_code_weights(self, weights: Sequence[float]) -> None:
        """Weigh the box code's numbers in the loss: a setting, though the head keeps it among its parameters."""
        with torch.no_grad():
            self.pts_bbox_head.code_weights.copy_(torch.tensor(weights))

    def cannot(self, ability: Ability) -> str:
        """Nothing: it runs part by part, by shapes alone and as a graph."""
        return ""

    def frame_graph(self, scene: Scene) -> FrameGraph:
        """One frame as a graph of tensors; it moves to eval mode."""
        return self.graph_type(self, scene, max_boxes=self.max_boxes, centre_range=self.centre_range_m)

    def new_history(self, *, scenes: int) -> NoHistory:
        """None is needed."""
        return NoHistory()

    def stages(self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample], *, history: Any) -> Stages:
        """The last frame of every sample part by part."""
        images = checked_images(inputs, data_samples)[:, -1]
        frames = current_frames(data_samples, device=images.device)
        return self._stages(images, frames=frames, tokens=current_tokens(data_samples))

    def noise_stages(self, scene: Scene, *, device: torch.device) -> Stages:
        """One frame of noise."""
        images, frames = frame_of_shapes(scene, device=device, geometry=device)
        return self._stages(images.normal_(), frames=frames, tokens=["noise"])

    def shape_run(self, scene: Scene, *, training: bool = False) -> Callable[[], Decoded]:
        """What runs one frame by shapes alone; it moves to the meta device for good, its weights are lost."""
        self.train(training).to("meta")

        def run() -> Decoded:
            with torch.set_grad_enabled(training), deformable_shapes(self):
                images, frames = frame_of_shapes(scene, device="meta", geometry="meta")
                return self.decoded(self.extract_feat(images), frames=frames)

        return run

    def feature_sizes(self, scene: Scene) -> dict[str, int]:
        """How many numbers each field of ``Features`` has of one sample; the detector is moved as by ``shape_run``."""
        sizes: dict[str, int] = {}

        def levels_of(_module: torch.nn.Module, _inputs: object, levels: Sequence[Tensor]) -> None:
            sizes["image"] = sum(level.numel() for level in levels[: self.pts_bbox_head.levels])

        handle = self.img_neck.register_forward_hook(levels_of)
        decoded = self.shape_run(scene)()
        handle.remove()
        states, cameras = decoded.states_BKE, len(scene.lidar2img_N44)
        assert states is not None
        seen = {"bev_BQC": states.numel(), "bev_mask_BNQD": cameras * states.shape[1]}
        return sizes | seen | {"logits_LBKC": decoded.logits_LBKC.numel(), "code_LBKD": decoded.code_LBK10.numel()}

    def sampling_repeats(self, scene: Scene) -> dict[str, Fraction]:
        """None: what samples says itself how often."""
        return {}

    def official_repeats(self, scene: Scene) -> dict[str, Fraction]:
        """None: the official code runs every layer as often."""
        return {}

    def _forward(self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample]) -> Decoded:
        return self._run(inputs, data_samples)[1]

    def _run(
        self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample]
    ) -> tuple[list[Tensor], Decoded, FrameBatch]:
        images = checked_images(inputs, data_samples)[:, -1]
        frames = current_frames(data_samples, device=images.device)
        levels = self.extract_feat(images)
        return levels, self.decoded(levels, frames=frames), frames

    def _features(self, levels: list[Tensor], decoded: Decoded, *, frames: FrameBatch) -> Features:
        with torch.no_grad():
            _, seen_BNKD = project_each(
                decoded.code_LBK10[-1][..., [0, 1, 4]],
                lidar2img_BN44=frames.lidar2img_BN44,
                image_size_B2=frames.image_size_B2,
            )
        read = levels[: self.pts_bbox_head.levels]
        return Features(read, decoded.states_BKE, seen_BNKD, decoded.logits_LBKC, decoded.code_LBK10)

    def _stages(self, images_BNCHW: Tensor, *, frames: FrameBatch, tokens: Sequence[str]) -> Stages:
        cameras, head = images_BNCHW.shape[1], self.pts_bbox_head
        return Stages(
            first=images_BNCHW,
            steps={
                "backbone": self.backbone_features,
                "neck": lambda maps: self.neck_features(maps, cameras=cameras),
                "encoder": lambda levels: head.encode(levels, frames=frames),
                "decoder": lambda encoded: head.decode(encoded, frames=frames),
            },
            outputs=lambda decoded: (decoded.logits_LBKC[-1], decoded.code_LBK10[-1]),
            detections=lambda decoded: list(zip(tokens, self.boxes(decoded), strict=True)),
            memory_part=None,
            remember=lambda _: None,
        )
