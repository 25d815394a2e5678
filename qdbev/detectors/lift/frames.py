"""One time step of a batch for detectors that lift images: every camera's matrices apart, poses, times.

Shapes: B samples, N cameras.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmdet3d.structures import Det3DDataSample
from torch import Tensor

Frame = Mapping[str, Any]
_WANTED = ("token", "scene", "index_in_scene", "timestamp", "prev_exists", "cam2img", "image_matrix", "cam2lidar")
_POSES = ("bev_matrix", "lidar2global", "lidar2ego")
_MICROSECONDS = 1e6


@dataclass(frozen=True)
class CameraFrames:
    """One frame of every sample; matrices are float64, so that no autocast touches them.

    Attributes:
        tokens: Token of each sample's key frame.
        scenes: Scene name.
        indices: Index in the scene.
        follows: Whether a frame of the same scene comes before (in the queue, or in a stream).
        time_B: Seconds.
        cam2img_BN44: Camera metres to pixels of the image as it was taken.
        image_BN44: These pixels to those of the network's input; depth passes.
        cam2lidar_BN44: Camera metres to those of the key frame's LiDAR.
        bev_B44: Augmentation of the ground, from the left on everything in the LiDAR's (or vehicle's) frame.
        lidar2global_B44: LiDAR metres to those of the map.
        lidar2ego_B44: LiDAR metres to those of the vehicle.
    """

    tokens: tuple[str, ...]
    scenes: tuple[str, ...]
    indices: tuple[int, ...]
    follows: tuple[bool, ...]
    time_B: Tensor
    cam2img_BN44: Tensor
    image_BN44: Tensor
    cam2lidar_BN44: Tensor
    bev_B44: Tensor
    lidar2global_B44: Tensor
    lidar2ego_B44: Tensor


def camera_frames(frames: Sequence[Frame], *, device: torch.device | str) -> CameraFrames:
    """Collect one frame per sample (dicts of the data room) into tensors on the device.

    Raises:
        ValueError: A frame lacks an entry.
    """
    for frame in frames:
        if missing := [key for key in (*_WANTED, *_POSES) if key not in frame]:
            raise ValueError(
                f"a frame lacks {missing}, which a detector that lifts images needs: take samples from the lift "
                "data set"
            )

    def stack(key: str) -> Tensor:
        return torch.stack([torch.as_tensor(frame[key], dtype=torch.float64).cpu() for frame in frames]).to(device)

    seconds = [float(frame["timestamp"]) / _MICROSECONDS for frame in frames]
    return CameraFrames(
        tokens=tuple(str(frame["token"]) for frame in frames),
        scenes=tuple(str(frame["scene"]) for frame in frames),
        indices=tuple(int(frame["index_in_scene"]) for frame in frames),
        follows=tuple(bool(frame["prev_exists"]) for frame in frames),
        time_B=torch.tensor(seconds, dtype=torch.float64, device=device),
        cam2img_BN44=_homogeneous(stack("cam2img")),
        image_BN44=stack("image_matrix"),
        cam2lidar_BN44=stack("cam2lidar"),
        bev_B44=stack("bev_matrix"),
        lidar2global_B44=stack("lidar2global"),
        lidar2ego_B44=stack("lidar2ego"),
    )


@dataclass(frozen=True)
class Projections:
    """Where a batch's cameras look.

    Attributes:
        lidar2img_BN44: LiDAR metres to pixels of the network's input, single precision.
        image_size_B2: Width and height of that input [px].
    """

    lidar2img_BN44: Tensor
    image_size_B2: Tensor


def projections(frames: CameraFrames, *, image_px: tuple[int, int]) -> Projections:
    """Every camera's matrices in one, for images of a height and width."""
    image_BN44 = torch.eye(4).to(frames.image_BN44).repeat(*frames.image_BN44.shape[:2], 1, 1)
    image_BN44[..., :2, :2] = frames.image_BN44[..., :2, :2]
    image_BN44[..., :2, 2] = frames.image_BN44[..., :2, 3]  # a shift of pixels, before the division by depth
    matrix_BN44 = image_BN44 @ frames.cam2img_BN44 @ frames.cam2lidar_BN44.inverse()
    size_2 = matrix_BN44.new_tensor(image_px[::-1]).float()
    return Projections(matrix_BN44.float(), size_2.expand(len(matrix_BN44), 2))


def projected_frames(lidar2img_N44: Tensor, *, device: torch.device | str) -> CameraFrames:
    """One sample of a rig that is known by its projections alone: its cameras' matrices stand together in one.

    Args:
        lidar2img_N44: LiDAR metres to pixels of the network's input.
        device: Where the matrices go.
    """
    cameras = len(lidar2img_N44)
    ones = torch.eye(4, dtype=torch.float64, device=device)
    lifts = lidar2img_N44.double().cpu().inverse().to(device)
    return CameraFrames(
        tokens=("noise",),
        scenes=("noise",),
        indices=(1,),
        follows=(True,),
        time_B=torch.ones(1, dtype=torch.float64, device=device),
        cam2img_BN44=ones.expand(1, cameras, 4, 4),
        image_BN44=ones.expand(1, cameras, 4, 4),
        cam2lidar_BN44=lifts[None],
        bev_B44=ones[None],
        lidar2global_B44=ones[None],
        lidar2ego_B44=ones[None],
    )


def queue_frame(data_samples: Sequence[Det3DDataSample], *, place: int, device: torch.device | str) -> CameraFrames:
    """The frame at a place of every sample's queue, -1 the current one."""
    return camera_frames([sample.metainfo["frames"][place] for sample in data_samples], device=device)


def checked_images(
    inputs: Mapping[str, Tensor], data_samples: Sequence[Det3DDataSample], *, most: int, image_px: tuple[int, ...]
) -> Tensor:
    """The image tensor (B, T, N, 3, H, W), T of 1 to ``most``.

    Raises:
        ValueError: Its shape does not fit the data samples, queues are longer than the detector looks back, or images
            have another height and width than ``image_px``.
    """
    img, lengths = inputs["img"], [len(sample.metainfo["frames"]) for sample in data_samples]
    if img.dim() != 6 or len(img) != len(lengths) or any(length != img.shape[1] for length in lengths):
        raise ValueError(
            f"img has shape {tuple(img.shape)} for {len(lengths)} samples with {lengths} frames, "
            "expected (samples, frames, cameras, 3, height, width)"
        )
    if img.shape[1] > most:
        raise ValueError(f"img has queues of {img.shape[1]} frames, but the detector sees at most {most} at once")
    if tuple(img.shape[-2:]) != tuple(image_px):
        raise ValueError(
            f"images are {img.shape[-1]}x{img.shape[-2]}, but the detector lifts images of {image_px[1]}x{image_px[0]}"
        )
    return img


def _homogeneous(matrix_BNab: Tensor) -> Tensor:
    """(B, N, 4, 4) of (B, N, 3, 3)."""
    if matrix_BNab.shape[-1] == 4:
        return matrix_BNab
    whole = torch.eye(4, dtype=matrix_BNab.dtype, device=matrix_BNab.device).repeat(*matrix_BNab.shape[:2], 1, 1)
    whole[..., :3, :3] = matrix_BNab
    return whole
