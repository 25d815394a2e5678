"""What the detector reads from a batch: images, frames and ground truth, checked.

Shapes: B samples, T frames, N cameras, M objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmdet3d.structures import Det3DDataSample
from torch import Tensor

from qdbev.detectors.images.frame_batch import Frame, FrameBatch, frame_batch


def ground_truth(data_samples: list[Det3DDataSample], *, device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
    """Boxes (M, 9) and labels (M,) of each sample."""
    instances = [sample.gt_instances_3d for sample in data_samples]
    labels = [torch.as_tensor(truth.labels_3d, device=device).long() for truth in instances]
    boxes = [
        truth.bboxes_3d.tensor.to(device).float() if len(truth) else torch.zeros(0, 9, device=device)
        for truth in instances
    ]
    for boxes_M9 in boxes:
        if boxes_M9.shape[1] != 9:
            raise ValueError(f"a ground-truth box has {boxes_M9.shape[1]} numbers, expected 9 with the velocity last")
    return boxes, labels


def current_frames(data_samples: list[Det3DDataSample], *, device: torch.device) -> FrameBatch:
    """The last frame of every sample's queue."""
    return frame_batch([_frames(sample)[-1] for sample in data_samples], device=device)


def current_tokens(data_samples: list[Det3DDataSample]) -> list[str]:
    """The token of every sample's current frame."""
    return [str(_frames(sample)[-1]["token"]) for sample in data_samples]


def checked_images(inputs: dict[str, Tensor], data_samples: list[Det3DDataSample]) -> Tensor:
    """The image tensor (B, T, N, 3, H, W).

    Raises:
        ValueError: its shape does not fit the data samples.
    """
    img, queue = inputs["img"], [len(_frames(sample)) for sample in data_samples]
    if img.dim() != 6 or len(img) != len(queue) or any(length != img.shape[1] for length in queue):
        raise ValueError(
            f"img has shape {tuple(img.shape)} for {len(queue)} samples with {queue} frames, "
            "expected (samples, frames, cameras, 3, height, width)"
        )
    return img


def images_of_sample(inputs: Mapping[str, Any], sample: Det3DDataSample, *, place: int, shape: Sequence[int]) -> Tensor:
    """The last frame's images (1, N, 3, H, W) of one sample of a batch, for a graph that takes one shape.

    Args:
        inputs: The batch.
        sample: The data sample.
        place: Which of the batch it is.
        shape: What the graph takes.

    Raises:
        ValueError: Images of another shape.
    """
    images = checked_images({"img": inputs["img"][place : place + 1]}, [sample])[:, -1].float()
    if images.shape != tuple(shape):
        raise ValueError(
            f"images have shape {tuple(images.shape)}, this graph takes {tuple(shape)} alone: "
            "export the detector for the size of these data"
        )
    return images


def _frames(sample: Det3DDataSample) -> list[Frame]:
    frames: list[Frame] = sample.metainfo["frames"]
    return frames


def queue_frames(data_samples: list[Det3DDataSample], *, device: torch.device) -> list[FrameBatch]:
    """One entry per time step, oldest first."""
    steps = zip(*(_frames(sample) for sample in data_samples), strict=True)
    return [frame_batch(list(step), device=device) for step in steps]
