"""A detector that lifts images and looks at the ground with a centre head: modes, streams, stages, shapes.

What lifts, encodes and decodes, and what is lost, a kind of detector adds: see ``LiftDetector``.

Shapes: B samples, T frames, N cameras, C channels, Q cells, K = tasks times cells, H W of an image or map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from mmdet3d.structures import Det3DDataSample
from mmengine.structures import InstanceData
from torch import Tensor

from qdbev.detectors.auxiliary import gather_objects
from qdbev.detectors.centre import decoded_boxes, dense_outputs
from qdbev.detectors.detector import Ability, Detections, Scene, Stages
from qdbev.detectors.features import Features
from qdbev.detectors.images.batches import ground_truth
from qdbev.detectors.lift.counting import feature_sizes, official_repeats, one_frame, sampling_repeats, shape_run
from qdbev.detectors.lift.frames import CameraFrames, checked_images, projections, queue_frame
from qdbev.detectors.lift.frustum import seen_cells
from qdbev.detectors.lift.history import Entry, LiftHistory, entries_of, past_of
from qdbev.detectors.lift.lifted import Lifted
from qdbev.detectors.lift.network import LiftNetwork
from qdbev.detectors.lift.outputs import Decoded, Encoded


class LiftDetector(LiftNetwork):
    """What such detectors share.

    A batch is ``{"img": (B, T, N, 3, H, W)}`` with one data sample each, whose metainfo ``frames`` describes the T
    frames; the last is the current one, the first the past one that a temporal detector compares it with. Only the
    current frame gets gradients; batch norms in training see both, the current one first, as in the official codes.
    """

    shape_run = shape_run
    feature_sizes = feature_sizes
    sampling_repeats = sampling_repeats
    official_repeats = official_repeats

    def more_losses(self, encoded: Encoded, data_samples: list[Det3DDataSample]) -> dict[str, Tensor]:
        """Losses of what the encoder gives: none here."""
        return {}

    def losses(self, decoded: Decoded, encoded: Encoded, data_samples: list[Det3DDataSample]) -> dict[str, Tensor]:
        """All losses of a batch."""
        boxes, labels = ground_truth(data_samples, device=decoded.tasks[0].heat_BCHW.device)
        return self.head_losses(decoded, boxes=boxes, labels=labels) | self.more_losses(encoded, data_samples)

    def boxes(self, decoded: Decoded) -> list[InstanceData]:
        """Boxes of every sample in the LiDAR's frame, best first."""
        return decoded_boxes(
            decoded.per_second(), classes=self.tasks, grid=self.centre_grid, order=self.order, decoding=self.decoding
        )

    def outputs(self, decoded: Decoded) -> tuple[Tensor, Tensor]:
        """Class logits (B, K, C) and box codes (B, K, 10) of every task's cells, in the grid's frame."""
        return dense_outputs(decoded.per_second(), classes=self.tasks, grid=self.centre_grid, order=self.order)

    def output_layers(self) -> list[str]:
        """Paths of the convolutions that maps come out of."""
        last = self.head_layers()
        return [path for path, module in self.named_modules() if any(module is layer for layer in last)]

    def first_positions(self) -> tuple[str, ...]:
        """None: no table of queries."""
        return ()

    def value_pairs(self) -> tuple[tuple[str, str], ...]:
        """None: no attention."""
        return ()

    # mmdet3d's interface

    def forward(
        self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample], mode: str = "tensor"
    ) -> Any:  # the type follows the mode, as in mmdet3d
        """Modes "loss", "predict" and "tensor" as in mmdet3d, and those for distillation; see ``Detector``.

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

    def extract_feat(self, img_BNCHW: Tensor) -> Tensor:
        """The neck's map (B N, C, H, W) of one frame."""
        return self.neck_features(self.backbone_features(img_BNCHW))

    def loss(self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample]) -> dict[str, Tensor]:
        """Losses of the current frame, the auxiliary ones too where the model has their head."""
        return self.loss_with_features(inputs, data_samples)[0]

    def loss_with_features(
        self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample]
    ) -> tuple[dict[str, Tensor], Features]:
        """Losses, and what distillation compares, of one forward pass."""
        image, encoded = self._encoded(inputs, data_samples)
        decoded = self.decode(encoded)
        terms = self.losses(decoded, encoded, data_samples) | self._auxiliary_losses(image, data_samples)
        return terms, self._features(image, encoded, decoded)

    def extract(self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample]) -> Features:
        """Features of the current frame; the head does not run."""
        return self._features(*self._encoded(inputs, data_samples), None)

    def extract_with_outputs(self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample]) -> Features:
        """The same, and the head's outputs."""
        image, encoded = self._encoded(inputs, data_samples)
        return self._features(image, encoded, self.decode(encoded))

    def predict(self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample]) -> list[Det3DDataSample]:
        """Boxes of the current frame as ``pred_instances_3d``.

        Queues of one frame are a stream: the past is what this model saw of the same scene. Longer ones bring their own
        past and leave the stream alone.
        """
        if self._images(inputs, data_samples).shape[1] == 1:
            stages = self.stages(inputs, data_samples, history=self.history)
            value = stages.first
            for step in stages.streamed().values():
                value = step(value)
            found = [boxes for _, boxes in value]
        else:
            found = self.boxes(self._forward(inputs, data_samples))
        for sample, boxes in zip(data_samples, found, strict=True):
            sample.pred_instances_3d = boxes
        return data_samples

    def detections(self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample]) -> Detections:
        """Token and boxes of each sample's current frame, as ``predict`` finds them."""
        tokens = queue_frame(data_samples, place=-1, device="cpu").tokens
        predicted = self(inputs, data_samples, mode="predict")
        return list(zip(tokens, [sample.pred_instances_3d for sample in predicted], strict=True))

    # what pipelines ask for: see ``qdbev.detectors.detector.Detector``

    def set_code_weights(self, weights: Sequence[float]) -> None:
        """Weigh the ten numbers of a box in the loss, in the order in which the head predicts them."""
        self.code_weights = tuple(weights)

    def cannot(self, ability: Ability) -> str:
        """Nothing."""
        return ""

    def new_history(self, *, scenes: int) -> LiftHistory:
        """An empty memory of so many scenes."""
        return LiftHistory(frames_back=max(self.frames_back, 1), max_scenes=scenes)

    def stages(self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample], *, history: LiftHistory) -> Stages:
        """The last frame of every sample's queue part by part, with the past that the memory holds of it."""
        images = self._images(inputs, data_samples)[:, -1]
        frames = queue_frame(data_samples, place=-1, device=images.device)
        return self._stages(
            images,
            frames=frames,
            entries=cache(lambda: history.lookup(frames)),
            remember=lambda encoded: history.store(encoded.lifted, frames=frames),
        )

    def noise_stages(self, scene: Scene, *, device: torch.device) -> Stages:
        """One frame of noise with a past of noise."""
        images, frames = one_frame(scene, device=device)
        images.normal_()
        return self._stages(images, frames=frames, entries=lambda: None, remember=lambda _: None)

    def _stages(
        self,
        images_BNCHW: Tensor,
        *,
        frames: CameraFrames,
        entries: Callable[[], list[Entry | None] | None],
        remember: Callable[[Encoded], None],
    ) -> Stages:
        return Stages(
            first=images_BNCHW,
            steps={
                "backbone": self.backbone_features,
                "neck": self.neck_features,
                "encoder": lambda image: self.encoded_with(
                    self.lift(image, frames=frames), frames=frames, entries=entries
                ),
                "decoder": self.decode,
            },
            outputs=self.outputs,
            detections=lambda decoded: list(zip(frames.tokens, self.boxes(decoded), strict=True)),
            memory_part=self.memory_part,
            remember=remember,
        )

    def encoded_with(
        self, lifted: Lifted, *, frames: CameraFrames, entries: Callable[[], list[Entry | None] | None]
    ) -> Encoded:
        """Features of the ground with the past that ``entries`` gives; asked for only by a temporal detector."""
        past = past_of(lifted, frames=frames, entries=entries()) if self.temporal else None
        return self.encode(lifted, frames=frames, past=past)

    def _forward(self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample]) -> Decoded:
        return self.decode(self._encoded(inputs, data_samples)[1])

    def _images(self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample]) -> Tensor:
        return checked_images(inputs, data_samples, most=2, image_px=self.image_px)

    def _encoded(self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample]) -> tuple[Tensor, Encoded]:
        """The neck's map of the current frame, and features of the ground with the past that the queue brings."""
        images = self._images(inputs, data_samples)
        frames = queue_frame(data_samples, place=-1, device=images.device)
        image = self.extract_feat(images[:, -1])
        entries = None
        lifted = self.lift(image, frames=frames)
        if self.temporal and images.shape[1] > 1:
            with torch.no_grad():
                past = self.lift(self.extract_feat(images[:, 0]), frames=frames)
            past_frames = queue_frame(data_samples, place=0, device=images.device)
            entries = entries_of(past, frames=past_frames, wanted=frames.follows)
        return image, self.encoded_with(lifted, frames=frames, entries=lambda: entries)

    def _auxiliary_losses(self, image_ECHW: Tensor, data_samples: list[Det3DDataSample]) -> dict[str, Tensor]:
        if self.auxiliary is None:
            return {}
        device = image_ECHW.device
        cameras = projections(queue_frame(data_samples, place=-1, device=device), image_px=self.image_px)
        objects = gather_objects(*ground_truth(data_samples, device=device))
        losses: dict[str, Tensor] = self.auxiliary(
            image_ECHW.unflatten(0, cameras.lidar2img_BN44.shape[:2]), cameras=cameras, objects=objects
        )
        return losses

    def _features(self, image_ECHW: Tensor, encoded: Encoded, decoded: Decoded | None) -> Features:
        cells = encoded.cells_BNDP
        logits, code = (None, None) if decoded is None else (part[None] for part in self.outputs(decoded))
        return Features(
            [image_ECHW.unflatten(0, cells.shape[:2])],
            encoded.bev_BCHW.flatten(2).transpose(1, 2),
            seen_cells(cells, grid=self.grid),
            logits,
            code,
        )
