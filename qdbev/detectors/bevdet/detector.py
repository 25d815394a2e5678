"""BEVDet and BEVDet4D as an mmdet3d detector: images of several cameras, and one past frame of them, to boxes.

Shapes: B samples, T frames, N cameras, C channels, Q cells, K = tasks times cells, H W of an image or map.
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

from qdbev.detectors.bevdet.counting import (
    feature_sizes,
    official_repeats,
    one_frame,
    sampling_repeats,
    shape_run,
)
from qdbev.detectors.bevdet.network import BEVDetNetwork, Decoded, Encoded
from qdbev.detectors.centre import (
    TASKS,
    WIDTH_FIRST,
    Circle,
    Decoding,
    Rotated,
    decoded_boxes,
    dense_outputs,
    task_losses,
    task_targets,
)
from qdbev.detectors.detector import Ability, Detections, Scene, Stages
from qdbev.detectors.features import Features
from qdbev.detectors.images.batches import ground_truth
from qdbev.detectors.lift import (
    CameraFrames,
    Entry,
    Lifted,
    LiftHistory,
    checked_images,
    entries_of,
    past_of,
    queue_frame,
    seen_cells,
)

FEW = 1e-4  # added to the number of objects of a task before it divides
SCALE_NMS = (
    Rotated(0.2),
    Rotated(0.2, (0.7, 0.7)),
    Rotated(0.2, (0.4, 0.55)),
    Circle(1.0),
    Rotated(0.2, (1.0, 1.0)),
    Rotated(0.5, (4.5, 9.0)),
)
"""Of each task. Things that are small from above are enlarged before they are compared."""


@MODELS.register_module()
class BEVDet(BEVDetNetwork):
    """The detector. Build it with ``build_bevdet``.

    A batch is ``{"img": (B, T, N, 3, H, W)}`` with one data sample each, whose metainfo ``frames`` describes the T
    frames; the last is the current one, the first the past one that a temporal detector compares it with. Only the
    current frame gets gradients; batch norms in training see both, the current one first, as in the official code.
    """

    shape_run = shape_run
    feature_sizes = feature_sizes
    sampling_repeats = sampling_repeats
    official_repeats = official_repeats

    def __init__(self, *args: Any, code_weights: Sequence[float], **options: Any) -> None:
        """Builds the parts; the arguments are explained in ``build_bevdet``."""
        super().__init__(*args, **options)
        self.code_weights = tuple(code_weights)
        self.decoding = Decoding(SCALE_NMS)
        self.history = self.new_history(scenes=16)

    @property
    def memory_part(self) -> str | None:
        """The part whose output the next frame sees."""
        return "encoder" if self.temporal else None

    def losses(self, decoded: Decoded, data_samples: list[Det3DDataSample]) -> dict[str, Tensor]:
        """Losses of every task by official name; velocities are compared as displacements over the gap."""
        boxes, labels = ground_truth(data_samples, device=decoded.tasks[0].heat_BCHW.device)
        if decoded.gap_s_B is not None:
            moved = [gap.float() for gap in decoded.gap_s_B]
            boxes = [torch.cat([box[:, :7], box[:, 7:] * gap], 1) for box, gap in zip(boxes, moved, strict=True)]
        losses: dict[str, Tensor] = {}
        for number, (maps, classes) in enumerate(zip(decoded.tasks, TASKS, strict=True)):
            targets = task_targets(boxes, labels, classes=classes, grid=self.centre_grid, order=WIDTH_FIRST)
            divisor = maps.code_B10HW.new_tensor(len(targets.cell_O) + FEW)
            loss = task_losses(maps, targets, code_weights=self.code_weights, divisor=divisor)
            named = {f"loss_{name}": value for name, value in loss.boxes.items()} | {"loss_heatmap": loss.heat}
            losses |= {f"task{number}.{name}": value for name, value in named.items()}
        return losses

    def boxes(self, decoded: Decoded) -> list[InstanceData]:
        """Boxes of every sample in the LiDAR's frame, best first."""
        return decoded_boxes(
            decoded.per_second(), classes=TASKS, grid=self.centre_grid, order=WIDTH_FIRST, decoding=self.decoding
        )

    def outputs(self, decoded: Decoded) -> tuple[Tensor, Tensor]:
        """Class logits (B, K, C) and box codes (B, K, 10) of every task's cells."""
        return dense_outputs(decoded.per_second(), classes=TASKS, grid=self.centre_grid, order=WIDTH_FIRST)

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
        """Losses of the current frame."""
        return self.loss_with_features(inputs, data_samples)[0]

    def loss_with_features(
        self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample]
    ) -> tuple[dict[str, Tensor], Features]:
        """Losses, and what distillation compares, of one forward pass."""
        image, encoded = self._encoded(inputs, data_samples)
        decoded = self.decode(encoded)
        return self.losses(decoded, data_samples), self._features(image, encoded, decoded)

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
        """Nothing: it runs part by part and by shapes alone."""
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
                "encoder": lambda image: self._encoded_with(self.lift(image), frames=frames, entries=entries),
                "decoder": self.decode,
            },
            outputs=self.outputs,
            detections=lambda decoded: list(zip(frames.tokens, self.boxes(decoded), strict=True)),
            memory_part=self.memory_part,
            remember=remember,
        )

    def _encoded_with(
        self, lifted: Lifted, *, frames: CameraFrames, entries: Callable[[], list[Entry | None] | None]
    ) -> Encoded:
        past = past_of(lifted, frames=frames, entries=entries()) if self.temporal else None
        return self.encode(lifted, frames=frames, past=past)

    def _forward(self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample]) -> Decoded:
        return self.decode(self._encoded(inputs, data_samples)[1])

    def _images(self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample]) -> Tensor:
        return checked_images(inputs, data_samples, most=2, image_px=self.img_view_transformer.image_px)

    def _encoded(self, inputs: dict[str, Tensor], data_samples: list[Det3DDataSample]) -> tuple[Tensor, Encoded]:
        """The neck's map of the current frame, and features of the ground with the past that the queue brings."""
        images = self._images(inputs, data_samples)
        frames = queue_frame(data_samples, place=-1, device=images.device)
        image = self.extract_feat(images[:, -1])
        entries = None
        lifted = self.lift(image)
        if self.temporal and images.shape[1] > 1:
            with torch.no_grad():
                past = self.lift(self.extract_feat(images[:, 0]))
            past_frames = queue_frame(data_samples, place=0, device=images.device)
            entries = entries_of(past, frames=past_frames, wanted=frames.follows)
        return image, self._encoded_with(lifted, frames=frames, entries=lambda: entries)

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
