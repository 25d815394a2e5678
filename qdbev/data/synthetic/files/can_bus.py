"""CAN bus files of one scene, as the nuScenes CAN bus expansion lays them out (messages at their usual rates)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from qdbev.data.synthetic.files.placing import Placing
from qdbev.data.synthetic.geometry import Array, yaw_quaternion
from qdbev.data.synthetic.stage.crowd import Crowd

_GRAVITY = 9.81
_STEERING_RATIO, _WHEELBASE_M = 15.0, 2.6


def _motion(crowd: Crowd, placing: Placing, seconds: Array) -> dict[str, Array]:
    """Global poses (K, 3), and speed, acceleration and yaw rate along the way, each (K,)."""
    poses = np.array([placing.pose(crowd.ego(float(t))) for t in seconds])
    step = 0.05
    before = np.array([crowd.ego(float(t) - step) for t in seconds])
    here = np.array([crowd.ego(float(t)) for t in seconds])
    after = np.array([crowd.ego(float(t) + step) for t in seconds])
    ahead, behind = (np.linalg.norm((b - a)[:, :2], axis=1) / step for a, b in ((here, after), (before, here)))
    return {
        "poses": poses,
        "speed": (ahead + behind) / 2,
        "acceleration": (ahead - behind) / step,
        "yaw_rate": (after - before)[:, 2] / (2 * step),
    }


def _listed(values: Array) -> list[float]:
    return [round(float(v), 6) for v in values]


def _pose_messages(motion: dict[str, Array], utimes: Array, *, full: bool) -> list[dict[str, object]]:
    """Messages of ``pose`` (full) or of ``ms_imu``."""
    messages: list[dict[str, object]] = []
    for k, utime in enumerate(utimes.tolist()):
        x, y, yaw = motion["poses"][k]
        speed, rate = motion["speed"][k], motion["yaw_rate"][k]
        orientation = _listed(yaw_quaternion(yaw))
        accel = _listed(np.array([motion["acceleration"][k], speed * rate, _GRAVITY]))
        turn = _listed(np.array([0.0, 0.0, rate]))
        if full:
            own = {"accel": accel, "orientation": orientation, "pos": _listed(np.array([x, y, 0.0]))}
            messages.append({**own, "rotation_rate": turn, "utime": utime, "vel": _listed(np.array([speed, 0, 0]))})
        else:
            messages.append({"linear_accel": accel, "q": orientation, "rotation_rate": turn, "utime": utime})
    return messages


def _vehicle_messages(motion: dict[str, Array], utimes: Array) -> dict[str, list[dict[str, object]]]:
    """Messages of the vehicle's own sensors."""
    steering, monitor, info, zoe = [], [], [], []
    for k, utime in enumerate(utimes.tolist()):
        speed, rate, pull = (float(motion[name][k]) for name in ("speed", "yaw_rate", "acceleration"))
        angle = float(np.arctan2(_WHEELBASE_M * rate, max(speed, 0.5))) * _STEERING_RATIO
        brake, throttle = max(0.0, -pull), max(0.0, pull)
        steering.append({"utime": utime, "value": round(angle, 5)})
        zoe.append({"brake_sensor": round(0.16 + 0.02 * brake, 5), "steering_sensor": round(np.rad2deg(angle), 3)})
        zoe[-1] |= {"throttle_sensor": round(0.18 + 0.05 * throttle, 5), "utime": utime}
        wheel = round(speed / 0.31 * 60 / (2 * np.pi), 3)
        info.append({f"{end}_wheel_speed": wheel for end in ("FL", "FR", "RL", "RR")})
        info[-1] |= {
            "utime": utime,
            "steer_corrected": round(np.rad2deg(angle), 3),
            "odom_speed": round(speed * 3.6, 3),
        }
        monitor.append(
            {
                "available_distance": 150,
                "battery_level": 80,
                "brake": round(20 * brake),
                "brake_switch": 2 if brake > 0.3 else 1,
                "gear_position": 7,
                "left_signal": 0,
                "rear_left_rpm": wheel,
                "rear_right_rpm": wheel,
                "right_signal": 0,
                "steering": round(np.rad2deg(angle), 3),
                "steering_speed": 0.0,
                "throttle": round(60 * throttle),
                "utime": utime,
                "vehicle_speed": round(speed * 3.6, 3),
                "yaw_rate": round(np.rad2deg(rate), 4),
            }
        )
    return {"steeranglefeedback": steering, "zoesensors": zoe, "zoe_veh_info": info, "vehicle_monitor": monitor[::25]}


def write_can_bus(folder: Path, name: str, *, crowd: Crowd, placing: Placing, duration_s: float) -> list[Path]:
    """Write ``<scene>_<message>.json`` for all messages of one scene; returns the files.

    Args:
        folder: The tree's ``can_bus`` folder.
        name: Scene name.
        crowd: Knows the ego's way.
        placing: From the scene frame and time to global ones.
        duration_s: From the first key frame to the last.
    """
    seconds = np.arange(-0.3, duration_s + 0.3, 0.02)
    utimes = np.array([placing.microseconds(float(t)) for t in seconds])
    motion = _motion(crowd, placing, seconds)
    messages: dict[str, object] = {
        "pose": _pose_messages(motion, utimes, full=True),
        "ms_imu": _pose_messages(motion, utimes, full=False),
        **_vehicle_messages(motion, utimes),
    }
    stats = {
        key: {"message_count": len(v), "message_freq": 2 if key == "vehicle_monitor" else 50}
        for key, v in messages.items()
        if isinstance(v, list)
    }
    route = [
        placing.pose(pose)[:2].round(4).tolist() for pose in crowd.world.layout.ego_path.at(np.arange(-30, 90, 1.0))
    ]
    paths = []
    for key, content in {**messages, "meta": stats, "route": route}.items():
        path = folder / f"{name}_{key}.json"
        path.write_text(json.dumps(content))
        paths.append(path)
    return paths
