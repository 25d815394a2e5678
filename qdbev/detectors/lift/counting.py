"""One frame as shapes alone, for counting: on torch's meta device, where weights are lost and only sizes are of use.

Shapes: N cameras.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor

from qdbev.detectors.detector import Scene
from qdbev.detectors.lift.frames import CameraFrames, projected_frames
from qdbev.detectors.lift.history import past_of
from qdbev.detectors.lift.network import LiftNetwork
from qdbev.detectors.lift.outputs import Decoded, Encoded
from qdbev.ops.deformable_convolution import deformable_shapes


def one_frame(scene: Scene, *, device: torch.device | str) -> tuple[Tensor, CameraFrames]:
    """One sample without meaning but for its geometry: images (1, N, 3, H, W), uninitialised, and their frame."""
    cameras, (height, width) = len(scene.lidar2img_N44), scene.image_px
    images = torch.empty(1, cameras, 3, height, width, device=device)
    return images, projected_frames(scene.lidar2img_N44, device=device)


def shape_run(detector: LiftNetwork, scene: Scene, *, training: bool = False) -> Callable[[], Decoded]:
    """What runs one sample and frame, with a past one in memory; see ``Detector``."""
    detector.train(training).to("meta")

    def run() -> Decoded:
        with torch.set_grad_enabled(training), deformable_shapes(detector):
            return detector.decode(_encoded(detector, scene)[1])

    return run


def feature_sizes(detector: LiftNetwork, scene: Scene) -> dict[str, int]:
    """How many numbers each field of ``Features`` has of one sample; see ``Detector``."""
    detector.eval().to("meta")
    with torch.no_grad(), deformable_shapes(detector):
        image, encoded = _encoded(detector, scene)
    rows, classes = len(detector.tasks) * detector.grid.cells, sum(len(of_task) for of_task in detector.tasks)
    sizes = {"image": image.numel(), "bev_BQC": encoded.bev_BCHW.numel()}
    return sizes | {"logits_LBKC": rows * classes, "code_LBKD": rows * 10}


def sampling_repeats(detector: LiftNetwork, scene: Scene) -> dict[str, Fraction]:
    """None: nothing is sampled by offsets that are counted once a query."""
    return {}


def official_repeats(detector: LiftNetwork, scene: Scene) -> dict[str, Fraction]:
    """The images' layers run twice: a stream keeps depths and features, the official code computes them again."""
    if not detector.temporal:
        return {}
    paths = tuple(f"{path}." for path in detector.image_paths())
    leaves = [path for path, module in detector.named_modules() if any(True for _ in module.parameters(False))]
    return {path: Fraction(2) for path in leaves if path.startswith(paths)}


def _encoded(detector: LiftNetwork, scene: Scene) -> tuple[Tensor, Encoded]:
    images, frames = one_frame(scene, device="meta")
    image = detector.neck_features(detector.backbone_features(images))
    lifted = detector.lift(image, frames=frames)
    past = past_of(lifted, frames=frames, entries=None) if detector.temporal else None
    return image, detector.encode(lifted, frames=frames, past=past)
