"""One frame as shapes alone, for counting: on torch's meta device, without weights, images or memory for either.

Shapes: N cameras, Q cells.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor, nn

from qdbev.detectors.bevdet.network import BEVDetNetwork, Decoded, Encoded
from qdbev.detectors.centre import TASKS
from qdbev.detectors.detector import Scene
from qdbev.detectors.lift import CameraFrames, past_of, projected_frames


def one_frame(scene: Scene, *, device: torch.device | str) -> tuple[Tensor, CameraFrames]:
    """One sample without meaning but for its geometry: images (1, N, 3, H, W), uninitialised, and their frame."""
    cameras, (height, width) = len(scene.lidar2img_N44), scene.image_px
    images = torch.empty(1, cameras, 3, height, width, device=device)
    return images, projected_frames(scene.lidar2img_N44, device=device)


def shape_run(detector: BEVDetNetwork, scene: Scene, *, training: bool = False) -> Callable[[], Decoded]:
    """Prepare a forward pass of shapes: one sample, one frame, with a past one in memory.

    Args:
        detector: Moved to the meta device for good; its weights are lost.
        scene: The images' size and the cameras.
        training: In training mode and with gradients, as far as the head's outputs.

    Returns:
        What runs it; forward hooks see meta tensors.
    """
    detector.train(training).to("meta")

    def run() -> Decoded:
        with torch.set_grad_enabled(training):
            return detector.decode(_encoded(detector, scene)[1])

    return run


def feature_sizes(detector: BEVDetNetwork, scene: Scene) -> dict[str, int]:
    """How many numbers each field of ``Features`` has of one sample; the detector is moved as by ``shape_run``."""
    detector.eval().to("meta")
    with torch.no_grad():
        image, encoded = _encoded(detector, scene)
    rows = len(TASKS) * detector.grid.cells
    classes = sum(len(of_task) for of_task in TASKS)
    sizes = {"image": image.numel(), "bev_BQC": encoded.bev_BCHW.numel()}
    return sizes | {"logits_LBKC": rows * classes, "code_LBKD": rows * 10}


def sampling_repeats(detector: BEVDetNetwork, scene: Scene) -> dict[str, Fraction]:
    """None: nothing is sampled by offsets."""
    return {}


def official_repeats(detector: BEVDetNetwork, scene: Scene) -> dict[str, Fraction]:
    """How much more often the official code runs a layer than this one does, by path; layers left out run alike.

    A stream keeps the depths and features of past frames; the official code computes them again from the past images.
    """
    if not detector.temporal:
        return {}
    again = ("img_backbone.", "img_neck.", "img_view_transformer.")
    layers = [path for path, module in detector.named_modules() if isinstance(module, nn.Conv2d)]
    return {path: Fraction(2) for path in layers if path.startswith(again)}


def _encoded(detector: BEVDetNetwork, scene: Scene) -> tuple[Tensor, Encoded]:
    images, frames = one_frame(scene, device="meta")
    image = detector.neck_features(detector.backbone_features(images))
    lifted = detector.lift(image)
    past = past_of(lifted, frames=frames, entries=None) if detector.temporal else None
    return image, detector.encode(lifted, frames=frames, past=past)
