"""One frame as shapes alone, for counting: on torch's meta device, without weights, images or memory for either.

Only the geometry is computed, because how many cells each camera sees decides how often some layers run.

Shapes: N cameras, Q BEV cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction

import torch
from torch import Tensor, nn

from qdbev.detectors.bevformer.frames.geometry import pillar_points
from qdbev.detectors.bevformer.frames.history import History
from qdbev.detectors.bevformer.layers.spatial_cross_attention import PillarDeformableAttention
from qdbev.detectors.bevformer.network import BEVFormerNetwork
from qdbev.detectors.detector import Scene
from qdbev.detectors.images.frame_batch import FrameBatch, frame_of_shapes
from qdbev.detectors.images.projection import project
from qdbev.detectors.queries.decoded import Decoded
from qdbev.ops.deformable_convolution import deformable_shapes


def shape_run(detector: BEVFormerNetwork, scene: Scene, *, training: bool = False) -> Callable[[], Decoded]:
    """Prepare a forward pass of shapes: one sample, one frame, with a history.

    Args:
        detector: Moved to the meta device for good; its weights are lost.
        scene: The images' size and the cameras.
        training: In training mode and with gradients, as far as the decoder's outputs.

    Returns:
        What runs it; forward hooks see meta tensors.
    """
    detector.train(training).to("meta")

    def run() -> Decoded:
        with torch.set_grad_enabled(training), deformable_shapes(detector):
            images, frames, history = one_frame(detector, scene, device="meta")
            encoded = detector.encode(detector.extract_feat(images), frames=frames, history=history)
            return detector.decode(encoded.bev_BQC)

    return run


def feature_sizes(detector: BEVFormerNetwork, scene: Scene) -> dict[str, int]:
    """How many numbers each field of ``Features`` has of one sample; the detector is moved as by ``shape_run``."""
    sizes: dict[str, int] = {}

    def levels_of(_module: nn.Module, _inputs: object, levels: Iterable[Tensor]) -> None:
        sizes["image"] = sum(level.numel() for level in levels)

    def bev_of(_module: nn.Module, _inputs: object, bev_BQC: Tensor) -> None:
        sizes["bev_BQC"] = bev_BQC.numel()

    handles = [
        detector.img_neck.register_forward_hook(levels_of),
        detector.pts_bbox_head.transformer.encoder.register_forward_hook(bev_of),
    ]
    decoded = shape_run(detector, scene)()
    for handle in handles:
        handle.remove()
    return sizes | {"logits_LBKC": decoded.logits_LBKC.numel(), "code_LBKD": decoded.code_LBK10.numel()}


def one_frame(
    detector: BEVFormerNetwork, scene: Scene, *, device: torch.device | str
) -> tuple[Tensor, FrameBatch, History]:
    """The input of one sample that follows another, without meaning but for its geometry.

    Args:
        detector: Whose history it is.
        scene: The images' size and the cameras.
        device: Where images and history are; geometry stays where it can be computed.

    Returns:
        Images (1, N, 3, H, W) and a history, both uninitialised, and the frame.
    """
    geometry = "cpu" if torch.device(device).type == "meta" else device
    images, frames = frame_of_shapes(scene, device=device, geometry=geometry)
    past = torch.empty(1, *detector.pts_bbox_head.bev_embedding.weight.shape, device=device)
    return images, frames, History(past, (True,))


def seen_cells(detector: BEVFormerNetwork, scene: Scene) -> Tensor:
    """(N,) how many BEV cells each camera sees."""
    grid = detector.pts_bbox_head.transformer.grid
    points = pillar_points(
        rows=grid.rows, columns=grid.columns, heights=grid.heights, pc_range=grid.pc_range, device=torch.device("cpu")
    )
    height, width = scene.image_px
    size = torch.tensor([[float(width), float(height)]])
    _, mask_BNQD = project(points, lidar2img_BN44=scene.lidar2img_N44[None], image_size_B2=size)
    return mask_BNQD[0].any(-1).sum(-1)


def sampling_repeats(detector: BEVFormerNetwork, scene: Scene) -> dict[str, Fraction]:
    """How many cameras a cell is sampled in, by path of the attention: offsets are counted once per cell."""
    grid = detector.pts_bbox_head.transformer.grid
    pairs = Fraction(int(seen_cells(detector, scene).sum()), grid.rows * grid.columns)
    return dict.fromkeys(_spatial_attentions(detector), pairs)


def official_repeats(detector: BEVFormerNetwork, scene: Scene) -> dict[str, Fraction]:
    """How much more often the official code runs a layer than this one does, by path; layers left out run alike.

    Spatial cross-attention: the official code computes offsets and weights for each camera, on lists that are padded to
    the longest; here once per cell. Regression branches: it runs each twice on the same input, decoder and head.
    """
    head = detector.pts_bbox_head
    cells = head.transformer.grid.rows * head.transformer.grid.columns
    padded = Fraction(len(scene.lidar2img_N44) * int(seen_cells(detector, scene).max()), cells)
    attentions = _spatial_attentions(detector)
    per_camera = [path + layer for path in attentions for layer in ("", ".sampling_offsets", ".attention_weights")]
    branches = [
        path for path, module in detector.named_modules() if ".reg_branches." in path and isinstance(module, nn.Linear)
    ]
    return dict.fromkeys(per_camera, padded) | dict.fromkeys(branches, Fraction(2))


def _spatial_attentions(detector: BEVFormerNetwork) -> list[str]:
    return [path for path, module in detector.named_modules() if isinstance(module, PillarDeformableAttention)]
