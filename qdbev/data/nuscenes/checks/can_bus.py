"""CAN messages of scenes: times, and three finite numbers wherever motion is read from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qdbev.data.nuscenes.findings import Finding, warning
from qdbev.data.nuscenes.motion import pose_messages

_FIELDS = ("accel", "rotation_rate", "vel")
_LATEST_US = 1_000_000
_WALKING_MPS = 2.0
_LARGEST = 1e300  # whole numbers in JSON may be larger than any float


def can_bus_findings(
    root: Path, *, scene: str, times_us: Sequence[float], places: NDArray[np.float64]
) -> Iterator[Finding]:
    """What is wrong with the messages of one scene.

    Args:
        root: Folder of the data set.
        scene: Name of the scene.
        times_us: Of its samples.
        places: (S, 3) where the vehicle is at them.
    """
    try:
        messages = pose_messages(root, scene=scene)
    except ValueError as error:
        yield Finding("can-bus", "can_bus", scene, str(error))
        return
    fault = next((fault for place, message in enumerate(messages or ()) if (fault := _fault(message, place))), "")
    if fault:
        yield Finding("can-bus", "can_bus", scene, f"the CAN messages of {scene}: {fault}")
    elif messages:
        yield from _clock(scene, messages=messages, times_us=times_us)
        yield from _speed(scene, messages=messages, times_us=times_us, places=places)


def _fault(message: Any, place: int) -> str:
    if not isinstance(message, dict):
        return f"message {place} is a {type(message).__name__}, not an object"
    if not _number(message.get("utime")):
        return f"message {place} has no time (utime)"
    for name in _FIELDS:
        value = message.get(name)
        if not (isinstance(value, list) and len(value) == 3 and all(map(_number, value))):
            return f"{name} of message {place} is not 3 finite numbers"
    return ""


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < _LARGEST


def _clock(scene: str, *, messages: Sequence[dict[str, Any]], times_us: Sequence[float]) -> Iterator[Finding]:
    times = [message["utime"] for message in messages]
    backwards = sum(after < before for before, after in pairwise(times))
    if backwards:
        yield warning("can-bus", "can_bus", scene, f"the CAN messages of {scene} go back in time {backwards} times")
    far = [time for time in times_us if not times[0] - _LATEST_US <= time <= times[-1] + _LATEST_US]
    if far:
        sentence = f"{len(far)} of {len(times_us)} samples of {scene} are over 1 s away from its CAN messages"
        yield warning("can-bus", "can_bus", scene, sentence)


def _speed(
    scene: str, *, messages: Sequence[dict[str, Any]], times_us: Sequence[float], places: NDArray[np.float64]
) -> Iterator[Finding]:
    """Whether velocities are in m/s: on the way of the samples they make about what the poses make."""
    if len(times_us) < 2:
        return
    during = [message for message in messages if times_us[0] <= message["utime"] <= times_us[-1]]
    if not during:
        return
    with np.errstate(over="ignore", invalid="ignore"):
        by_poses = float(np.linalg.norm(np.diff(places, axis=0), axis=1).sum()) / (times_us[-1] - times_us[0]) * 1e6
        by_messages = float(np.mean(np.linalg.norm([message["vel"] for message in during], axis=1)))
    if max(by_poses, by_messages) > _WALKING_MPS and not by_poses / 2 < by_messages < by_poses * 2:
        sentence = f"the CAN messages of {scene} say {by_messages:.3g} m/s, its poses make {by_poses:.3g} m/s"
        yield warning("can-bus", "can_bus", scene, sentence)
