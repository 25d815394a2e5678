"""The numbers of one time step of a batch: camera matrices, ego motion, scene names.

Shapes: B samples, N cameras.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qdbev.detectors.detector import Scene

Frame = Mapping[str, Any]
CAN_BUS_SIZE = 18
MOTION_ENTRIES = (0, 1, 2, 17)  # of the CAN bus: those that are differences to the frame before


@dataclass(frozen=True)
class FrameBatch:
    """One frame of every sample.

    Attributes:
        scenes: scene name per sample.
        indices: index in the scene per sample.
        follows: whether a frame of the same scene comes before (in the queue, or in a stream).
        can_bus_B18: values with differences to the frame before in 0:3 and 17.
        lidar2img_BN44: LiDAR metres to pixels of the network input.
        image_size_B2: (width, height) of the padded network input [px].
        valid_size_B2: the same before padding; None where nothing is padded.
        img2lidar_BN44: the inverses of ``lidar2img_BN44`` where they are known; None where nobody has computed them.
    """

    scenes: tuple[str, ...]
    indices: tuple[int, ...]
    follows: tuple[bool, ...]
    can_bus_B18: Tensor
    lidar2img_BN44: Tensor
    image_size_B2: Tensor
    valid_size_B2: Tensor | None = None
    img2lidar_BN44: Tensor | None = None

    def to_lidar(self) -> Tensor:
        """(B, N, 4, 4) pixels times depth to LiDAR metres: as given, or inverted in float64."""
        if self.img2lidar_BN44 is not None:
            return self.img2lidar_BN44
        return torch.linalg.inv(self.lidar2img_BN44.double()).float()

    def can_bus(self, present: Sequence[bool] | Tensor) -> Tensor:
        """CAN-bus values with no ego motion for samples that have no history."""
        keep = torch.as_tensor(present, device=self.can_bus_B18.device)
        values = self.can_bus_B18.clone()
        values[:, MOTION_ENTRIES] = values[:, MOTION_ENTRIES] * keep[:, None]
        return values


def frame_batch(frames: Sequence[Frame], *, device: torch.device) -> FrameBatch:
    """Collects one frame per sample (dicts of the data room) into tensors on the device.

    Raises:
        ValueError: a frame lacks an entry.
    """
    wanted = ("scene", "index_in_scene", "prev_exists", "can_bus", "lidar2img", "img_shape")
    for frame in frames:
        if missing := [key for key in wanted if key not in frame]:
            raise ValueError(
                f"a frame lacks {missing}, expected {list(wanted)}: take samples from the temporal dataset"
            )

    def stack(key: str) -> Tensor:
        return torch.stack([torch.as_tensor(frame[key], dtype=torch.float32).cpu() for frame in frames]).to(device)

    size, valid = ([frame.get(name, frame["img_shape"]) for frame in frames] for name in ("img_shape", "valid_shape"))
    return FrameBatch(
        scenes=tuple(str(frame["scene"]) for frame in frames),
        indices=tuple(int(frame["index_in_scene"]) for frame in frames),
        follows=tuple(bool(frame["prev_exists"]) for frame in frames),
        can_bus_B18=stack("can_bus"),
        lidar2img_BN44=stack("lidar2img"),
        image_size_B2=_width_height(size, device=device),
        valid_size_B2=None if valid == size else _width_height(valid, device=device),
    )


def _width_height(shapes: Sequence[tuple[int, int]], *, device: torch.device) -> Tensor:
    return torch.tensor([[float(shape[1]), float(shape[0])] for shape in shapes], device=device)


def frame_of_shapes(
    scene: Scene, *, device: torch.device | str, geometry: torch.device | str
) -> tuple[Tensor, FrameBatch]:
    """One sample that follows another, without meaning but for its geometry.

    Args:
        scene: The images' size and the cameras.
        device: Where the images are.
        geometry: Where matrices and sizes are.

    Returns:
        Images (1, N, 3, H, W), uninitialised, and the frame.
    """
    cameras, (height, width) = len(scene.lidar2img_N44), scene.image_px
    frames = FrameBatch(
        scenes=("shapes",),
        indices=(1,),
        follows=(True,),
        can_bus_B18=torch.zeros(1, CAN_BUS_SIZE, device=device),
        lidar2img_BN44=scene.lidar2img_N44[None].float().to(geometry),
        image_size_B2=torch.tensor([[float(width), float(height)]], device=geometry),
    )
    return torch.empty(1, cameras, 3, height, width, device=device), frames
