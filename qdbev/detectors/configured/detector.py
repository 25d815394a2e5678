"""An mmdet3d detector as the pipelines take it: raw batches in, parts by name, boxes of whole key frames out.

The detector stays the object that mmdet3d built, with its own parameter names, so that its checkpoints fit; only its
class changes, to one that puts ``ConfiguredDetector`` before its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
from mmdet3d.structures import Det3DDataSample
from mmengine.structures import InstanceData
from torch import nn

from qdbev.detectors.configured.frames import frame_boxes
from qdbev.detectors.configured.suppression import unwatched_suppression
from qdbev.detectors.configured.taps import features, recorded
from qdbev.detectors.detector import Ability, Detections, NoHistory, Scene, Stages
from qdbev.detectors.features import Features
from qdbev.detectors.frame_graph import FrameGraph

_CANNOT = {
    "stages": "{name} cannot run part by part, because it is known by its mmdet3d config alone; a bit plan and the "
    "latency of each part need that",
    "shapes": "{name} cannot run by shapes alone, because it is known by its mmdet3d config alone; its costs and "
    "memory cannot be counted before it runs",
    "export": "{name} cannot be one graph from images to boxes, because it is known by its mmdet3d config alone; "
    "`export onnx` writes its image branch, which is neither scored nor timed",
}


class ConfiguredDetector(nn.Module):
    """What is put before an mmdet3d detector's own class; see ``build_configured``.

    A batch is what the config's pipeline packed, in lists; the detector's own ``data_preprocessor`` stacks it and
    brings it to the device.
    """

    memory_part = None

    history: NoHistory
    stated_parts: dict[str, list[str]]
    stated_taps: dict[str, str | None]
    stated_outputs: tuple[str, ...]
    class_order: tuple[int, ...]
    data_preprocessor: nn.Module

    def parts(self) -> dict[str, list[str]]:
        """The paths of each part, as stated; together they hold all parameters."""
        return {name: list(paths) for name, paths in self.stated_parts.items()}

    def output_layers(self) -> list[str]:
        """Paths or patterns of the last layers, as stated; none leaves the choice to the plan."""
        return list(self.stated_outputs)

    def first_positions(self) -> tuple[str, ...]:
        """None is known."""
        return ()

    def value_pairs(self) -> tuple[tuple[str, str], ...]:
        """None is known: what data-free quantization can connect, it finds by watching."""
        return ()

    def set_code_weights(self, weights: Sequence[float]) -> None:
        """Nothing: the config says what the loss weighs."""

    def cannot(self, ability: Ability) -> str:
        """To run part by part or by shapes alone, and to be a graph."""
        return _CANNOT[ability].format(name=type(self).__name__)

    def new_history(self, *, scenes: int) -> NoHistory:
        """None is needed."""
        return NoHistory()

    def stages(self, inputs: Mapping[str, Any], data_samples: Sequence[Det3DDataSample], *, history: Any) -> Stages:
        """Refuse: see ``cannot``."""
        raise ValueError(self.cannot("stages"))

    def frame_graph(self, scene: Scene) -> FrameGraph:
        """Refuse: see ``cannot``."""
        raise ValueError(self.cannot("export"))

    def noise_stages(self, scene: Scene, *, device: torch.device) -> Stages:
        """Refuse: see ``cannot``."""
        raise ValueError(self.cannot("stages"))

    def shape_run(self, scene: Scene, *, training: bool = False) -> Callable[[], object]:
        """Refuse: see ``cannot``."""
        raise ValueError(self.cannot("shapes"))

    def feature_sizes(self, scene: Scene) -> dict[str, int]:
        """Refuse: see ``cannot``."""
        raise ValueError(self.cannot("shapes"))

    def sampling_repeats(self, scene: Scene) -> dict[str, Fraction]:
        """Refuse: see ``cannot``."""
        raise ValueError(self.cannot("shapes"))

    def official_repeats(self, scene: Scene) -> dict[str, Fraction]:
        """Refuse: see ``cannot``."""
        raise ValueError(self.cannot("shapes"))

    def forward(self, inputs: Mapping[str, Any], data_samples: Sequence[Det3DDataSample], mode: str = "tensor") -> Any:
        """As mmdet3d's, after the detector's own preprocessing; for distillation, also with what its taps gave.

        Mode "loss_with_features" gives the losses and the features. Mode "features" gives the features alone, of the
        same pass with the same preprocessing, so that a teacher sees what its student does.

        Raises:
            ValueError: a mode with losses of a batch that was packed without ground truth; a tap gives something else
                than features; or mmdet3d's code fails on the batch.
        """
        if mode in ("features", "loss_with_features"):
            losses, tapped = self._tapped(inputs, data_samples)
            return tapped if mode == "features" else (losses, tapped)
        if mode == "loss" and "bboxes_3d" not in data_samples[0].gt_instances_3d:
            raise ValueError("the config's train_pipeline packs no gt_bboxes_3d; add it to the keys of Pack3DDetInputs")
        batch = {"inputs": dict(inputs), "data_samples": list(data_samples)}
        try:
            ready = self.data_preprocessor(batch, mode == "loss")
            with unwatched_suppression():
                return super().forward(ready["inputs"], ready["data_samples"], mode=mode)
        except (ValueError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # somebody else's code, on somebody else's config
            name = type(self).__name__
            raise ValueError(f"{name} failed in mode {mode}: {type(error).__name__}: {error}") from error

    def _tapped(
        self, inputs: Mapping[str, Any], data_samples: Sequence[Det3DDataSample]
    ) -> tuple[dict[str, Any], Features]:
        with recorded(self, taps=self.stated_taps) as records:
            losses = ConfiguredDetector.forward(self, inputs, data_samples, mode="loss")
        return losses, features(records, tokens=[sample.metainfo["token"] for sample in data_samples])

    def detections(self, inputs: Mapping[str, Any], data_samples: Sequence[Det3DDataSample]) -> Detections:
        """Token and boxes of each key frame of a batch.

        Returns:
            (token, boxes) each: ``bboxes_3d`` with 9 numbers in the lidar's frame, ``scores_3d`` best first,
            ``labels_3d`` in the order of nuScenes' classes as qdbev counts them.
        """
        predicted = self(inputs, data_samples, mode="predict")
        views: dict[str, list[Det3DDataSample]] = {}
        for sample in predicted:
            views.setdefault(sample.metainfo["token"], []).append(sample)
        return [(token, self._frame(samples)) for token, samples in views.items()]

    def _frame(self, samples: Sequence[Det3DDataSample]) -> InstanceData:
        boxes = [(sample.pred_instances_3d, sample.metainfo.get("lidar2cam")) for sample in samples]
        return frame_boxes(boxes, class_order=self.class_order)
