"""Vehicle motion at a key frame: the 18 numbers BEVFormer calls ``can_bus``, from CAN messages or from ego poses.

Layout (BEVFormer, official ``nuscenes_converter``): 0:3 ego2global translation in metres, 3:7 ego2global quaternion
(w, x, y, z), 7:10 acceleration m/s2, 10:13 rotation rate rad/s, 13:16 velocity m/s (all three in the ego frame),
16 the yaw in radians in [0, 2 pi), 17 the same yaw in degrees in [0, 360).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from nuscenes.can_bus.can_bus_api import NuScenesCanBus

from qdbev.data.geometry import rotation_matrices

GRAVITY_MPS2 = 9.81  # CAN accelerometers report it on the z axis of a level vehicle
CAN_BUS_SIZE = 18
_EMPTY_BYTES = 64


def without_messages(root: Path, *, scene: str) -> bool:
    """Whether ``root`` holds no CAN message of a scene that has some in nuScenes; its motion is then from ego poses."""
    if not (root / "can_bus").is_dir():
        return True
    return not _blacklisted(scene, root=root) and not _holds_messages(root / "can_bus" / f"{scene}_pose.json")


def _holds_messages(path: Path) -> bool:
    return path.is_file() and (path.stat().st_size > _EMPTY_BYTES or path.read_bytes().strip() not in (b"", b"[]"))


def pose_messages(root: Path, *, scene: str) -> list[dict[str, Any]] | None:
    """CAN messages ``pose`` of one scene, oldest first.

    Returns:
        The messages; an empty list where nuScenes itself says that the scene has none (21 scenes are on the
        devkit's blacklist); None where ``root`` holds no CAN message for the scene.

    Raises:
        ValueError: The file is no list.
    """
    if without_messages(root, scene=scene):
        return None
    if _blacklisted(scene, root=root):
        return []
    path = root / "can_bus" / f"{scene}_pose.json"
    try:
        messages = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}); unpack the CAN bus expansion again") from error
    if not isinstance(messages, list):
        raise ValueError(f"{path} holds a {type(messages).__name__}, not a list of messages")
    return messages


def _blacklisted(scene: str, *, root: Path) -> bool:
    if not (scene.startswith("scene-") and scene[6:].isdigit()):
        return False
    return int(scene[6:]) in NuScenesCanBus(dataroot=str(root)).can_blacklist


def message_motion(messages: Sequence[dict[str, Any]], *, timestamp_us: int) -> NDArray[np.float64]:
    """Acceleration, rotation rate and velocity (9,) of the first message later than ``timestamp_us``.

    So the official converter has it: its loop breaks on that message, about 20 ms after the frame, and then reads from
    it. Where none is later it is the last message; all zeros where there is no message.
    """
    if not messages:
        return np.zeros(9)
    message = next((message for message in messages if message["utime"] > timestamp_us), messages[-1])
    return np.array([*message["accel"], *message["rotation_rate"], *message["vel"]], dtype=np.float64)


def pose_motion(poses: NDArray[np.float64], *, timestamps_us: Sequence[int]) -> NDArray[np.float64]:
    """Acceleration, rotation rate and velocity (S, 9) of a scene from its S ego2global poses (S, 4, 4).

    Central differences inside the scene, one-sided at its ends; gravity is added on z as the CAN sensor sees it.
    A scene of one frame stands still.
    """
    count = len(poses)
    motion = np.zeros((count, 9))
    motion[:, 2] = GRAVITY_MPS2
    if count < 2:
        return motion
    seconds = (np.asarray(timestamps_us, dtype=np.float64) - timestamps_us[0]) * 1e-6
    velocity_global = np.gradient(poses[:, :3, 3], seconds, axis=0)
    acceleration_global = np.gradient(velocity_global, seconds, axis=0)
    to_ego = poses[:, :3, :3].transpose(0, 2, 1)
    yaw = np.unwrap(np.arctan2(poses[:, 1, 0], poses[:, 0, 0]))
    motion[:, 0:3] += np.einsum("sij,sj->si", to_ego, acceleration_global)
    motion[:, 5] = np.gradient(yaw, seconds)
    motion[:, 6:9] = np.einsum("sij,sj->si", to_ego, velocity_global)
    return motion


def can_bus_vector(
    translation: Sequence[float], *, rotation: Sequence[float], motion: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The 18 absolute values of one key frame.

    Args:
        translation: ego2global translation (x, y, z) in metres.
        rotation: ego2global quaternion (w, x, y, z).
        motion: (9,) acceleration, rotation rate, velocity in the ego frame.

    >>> vector = can_bus_vector((5, 6, 0), rotation=(0.5 ** 0.5, 0, 0, -(0.5 ** 0.5)), motion=np.zeros(9))
    >>> vector[[0, 1, 17]].round(6).tolist(), round(float(vector[16]) / math.pi, 6)
    ([5.0, 6.0, 270.0], 1.5)
    """
    matrix = rotation_matrices(np.asarray(rotation, dtype=np.float64))
    degrees = math.degrees(math.atan2(matrix[1, 0], matrix[0, 0]))
    degrees = degrees + 360.0 if degrees < 0 else degrees
    return np.array([*translation, *rotation, *motion, math.radians(degrees), degrees], dtype=np.float64)
