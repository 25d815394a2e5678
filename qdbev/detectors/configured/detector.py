"""An mmdet3d detector as the pipelines take it: raw batches in, parts by name, boxes of whole key frames out.

The detector stays the object that mmdet3d built, with its own parameter names, so that its checkpoints fit; only its
class changes, to one that puts `ConfiguredDetector` before its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmdet3d.structures import Det3DDataSample
from mmengine.structures import InstanceData
from torch import nn

from qdbev.detectors.configured.frames import frame_boxes


class NoHistory:
    """Stands where a temporal detector keeps what it saw before."""

    def reset(self) -> None:
        """Does nothing: every frame is seen alone."""


class ConfiguredDetector(nn.Module):
    """What is put before an mmdet3d detector's own class; see `build_configured`.

    A batch is what the config's pipeline packed, in lists; the detector's own `data_preprocessor` stacks it and brings
    it to the device.
    """

    history: NoHistory
    stated_parts: dict[str, list[str]]
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
        """As mmdet3d's, after the detector's own preprocessing.

        Raises:
            ValueError: mode "loss" of a batch that was packed without ground truth; or mmdet3d's code fails on it.
        """
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

    def detections(self, inputs: Mapping[str, Any], data_samples: Sequence[Det3DDataSample]) -> list[Any]:
        """Token and boxes of each key frame of a batch.

        Returns:
            (token, boxes) each: `bboxes_3d` with 9 numbers in the lidar's frame, `scores_3d` best first, `labels_3d` in
            the order of nuScenes' classes as qdbev counts them.
        """
        found = self(inputs, data_samples, mode="predict")
        views: dict[str, list[Det3DDataSample]] = {}
        for sample in found:
            views.setdefault(sample.metainfo["token"], []).append(sample)
        return [(token, self._frame(samples)) for token, samples in views.items()]

    def _frame(self, samples: Sequence[Det3DDataSample]) -> InstanceData:
        boxes = [(sample.pred_instances_3d, sample.metainfo.get("lidar2cam")) for sample in samples]
        return frame_boxes(boxes, class_order=self.class_order)
