"""An mmdet3d detector as the pipelines take it: raw batches in, parts by name, boxes of whole key frames out.

The detector stays the object that mmdet3d built, with its own parameter names, so that its checkpoints fit; only its
class changes, to one that puts ``ConfiguredDetector`` before its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmdet3d.structures import Det3DDataSample
from mmengine.structures import InstanceData
from torch import nn

from qdbev.detectors.configured.frames import frame_boxes
from qdbev.detectors.configured.taps import features, recorded
from qdbev.detectors.features import Features


class NoHistory:
    """Stands where a temporal detector keeps what it saw before."""

    def reset(self) -> None:
        """Does nothing: every frame is seen alone."""


class ConfiguredDetector(nn.Module):
    """What is put before an mmdet3d detector's own class; see ``build_configured``.

    A batch is what the config's pipeline packed, in lists; the detector's own ``data_preprocessor`` stacks it and
    brings it to the device.
    """

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

    def forward(self, inputs: Mapping[str, Any], data_samples: Sequence[Det3DDataSample], mode: str = "tensor") -> Any:
        """As mmdet3d's, after the detector's own preprocessing; for distillation, also with what its taps gave.

        Mode "loss_with_features" gives the losses and the features. Mode "features" gives the features alone, of the
        same pass with the same preprocessing, so that a teacher sees what its student does.

        Raises:
            ValueError: a mode with losses of a batch that was packed without ground truth; a tap gives something else
                than features; or mmdet3d's code fails on the batch.
        """
        if mode in ("features", "loss_with_features"):
            losses, found = self._tapped(inputs, data_samples)
            return found if mode == "features" else (losses, found)
        if mode == "loss" and "bboxes_3d" not in data_samples[0].gt_instances_3d:
            raise ValueError("the config's train_pipeline packs no gt_bboxes_3d; add it to the keys of Pack3DDetInputs")
        batch = {"inputs": dict(inputs), "data_samples": list(data_samples)}
        try:
            ready = self.data_preprocessor(batch, mode == "loss")
            return super().forward(ready["inputs"], ready["data_samples"], mode=mode)
        except (ValueError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # somebody else's code, on somebody else's config
            name = type(self).__name__
            raise ValueError(f"{name} failed in mode {mode}: {type(error).__name__}: {error}") from error

    def _tapped(
        self, inputs: Mapping[str, Any], data_samples: Sequence[Det3DDataSample]
    ) -> tuple[dict[str, Any], Features]:
        with recorded(self, taps=self.stated_taps) as kept:
            losses = ConfiguredDetector.forward(self, inputs, data_samples, mode="loss")
        return losses, features(kept, tokens=[sample.metainfo["token"] for sample in data_samples])

    def detections(self, inputs: Mapping[str, Any], data_samples: Sequence[Det3DDataSample]) -> list[Any]:
        """Token and boxes of each key frame of a batch.

        Returns:
            (token, boxes) each: ``bboxes_3d`` with 9 numbers in the lidar's frame, ``scores_3d`` best first,
            ``labels_3d`` in the order of nuScenes' classes as qdbev counts them.
        """
        found = self(inputs, data_samples, mode="predict")
        views: dict[str, list[Det3DDataSample]] = {}
        for sample in found:
            views.setdefault(sample.metainfo["token"], []).append(sample)
        return [(token, self._frame(samples)) for token, samples in views.items()]

    def _frame(self, samples: Sequence[Det3DDataSample]) -> InstanceData:
        boxes = [(sample.pred_instances_3d, sample.metainfo.get("lidar2cam")) for sample in samples]
        return frame_boxes(boxes, class_order=self.class_order)
