"""One scene from its name to files in the tree and rows in its fragment."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from qdbev.data.synthetic.files.can_bus import write_can_bus
from qdbev.data.synthetic.files.placing import place
from qdbev.data.synthetic.files.tables import SceneRows
from qdbev.data.synthetic.files.tree import write_atomically
from qdbev.data.synthetic.geometry import Array
from qdbev.data.synthetic.sensors.appearance import draw_appearance
from qdbev.data.synthetic.sensors.cameras import OFFSETS_US, build_rig
from qdbev.data.synthetic.sensors.ground import paint_ground
from qdbev.data.synthetic.sensors.lidar import Scanner
from qdbev.data.synthetic.sensors.render import Painter
from qdbev.data.synthetic.sensors.view import View
from qdbev.data.synthetic.settings import Settings
from qdbev.data.synthetic.stage.crowd import Crowd, Moment
from qdbev.data.synthetic.stage.world import build_world
from qdbev.data.synthetic.tokens import generator

MIN_SEEN_PX = 8.0  # at 176x96 pixels; grows with the image, so that the annotations stay the same
JPEG_QUALITY = 92
SWEEPS_PER_KEY_FRAME = 6  # 12 Hz between key frames at 2 Hz


@dataclass
class _Recorder:
    """Renders one scene and notes what it writes."""

    root: Path
    settings: Settings
    name: str
    files: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Build the world and the sensors."""
        settings, name = self.settings, self.name
        own = (settings.seed, name)
        self.placing = place(*own)
        self.rows = SceneRows(*own)
        self.rng = generator(*own, "image")
        self.vehicle = settings.vehicle
        world = build_world(
            generator(*own, "world"), duration_s=settings.duration_s, more_things=self.vehicle.more_things
        )
        self.crowd = Crowd(world)
        self.look = draw_appearance(generator(*own, "appearance"))
        self.rig = build_rig(generator(*own, "rig"), image_size_px=settings.image_size_px, mounts=self.vehicle.mounts)
        small = settings.image_width_px <= 400
        ground = paint_ground(
            generator(*own, "ground"), world.layout, ego_track=world.ego_track, metres_per_px=0.18 if small else 0.06
        )
        skyline = np.repeat(np.abs(generator(*own, "skyline").normal(0.05, 0.04, 120)), 6)
        factor = 2 if settings.image_width_px <= 800 else 1
        self.painters = [
            Painter(
                self.crowd,
                View(
                    self.rig[k],
                    image_size_px=settings.image_size_px,
                    appearance=self.look,
                    ground=ground,
                    skyline=skyline,
                ),
                appearance=self.look,
                camera=k,
                supersampling=factor,
            )
            for k in range(len(self.vehicle.channels))
        ]
        self.scanner = Scanner(self.crowd, self.rig[-1])
        self.counts = dict.fromkeys(self.vehicle.sensors, 0)

    def record(self, *, sweeps: bool) -> dict[str, object]:
        """Render all frames; returns the fragment."""
        settings, rows = self.settings, self.rows
        stem = rows.add_log(location=self.placing.location, date="2018-07-24")
        rows.add_scene(count=settings.key_frames, description=f"{self.look.hour}, {self.look.weather}")
        for sensor in self.rig:
            if sensor.intrinsic is not None:
                rows.add_sensor(sensor)
            elif self.vehicle.lidar is not None:
                rows.add_sensor(replace(sensor, channel=self.vehicle.lidar))
        for frame in range(settings.key_frames):
            if sweeps and frame:
                for step in range(1, SWEEPS_PER_KEY_FRAME):
                    seconds = (frame - 1 + step / SWEEPS_PER_KEY_FRAME) / 2
                    for camera in range(len(self.vehicle.channels)):
                        self._shoot(camera, stem, seconds=seconds, frame=frame, key=False)
            self._key_frame(frame, stem)
        actors = {k: actor for k, actor in enumerate(self.crowd.actors) if actor.label}
        named = {k: self.vehicle.category(actor.label, usual=actor.category) for k, actor in actors.items()}
        rows.add_instances({rows.token("instance", k): category for k, category in named.items()})
        folder = self.root / "can_bus"
        for path in write_can_bus(
            folder, self.name, crowd=self.crowd, placing=self.placing, duration_s=settings.duration_s
        ):
            self._note(path)
        return {"scene": self.name, "settings": settings.as_dict(), "files": self.files, "tables": rows.rows}

    def _key_frame(self, frame: int, stem: str) -> None:
        seconds = frame / 2
        self.rows.add_sample(frame, count=self.settings.key_frames, timestamp=self.placing.microseconds(seconds))
        seen, alone, best = np.zeros((3, len(self.crowd.actors)))
        for camera in range(len(self.vehicle.channels)):
            one_seen, one_alone = self._shoot(camera, stem, seconds=seconds, frame=frame, key=True)
            seen, alone, best = seen + one_seen, alone + one_alone, np.maximum(best, one_seen)
        moment = self.crowd.at(seconds)
        hits = self._scan(moment, stem, seconds=seconds, frame=frame)
        self._annotate(moment, frame, share=seen / np.maximum(alone, 1e-9), best=best, hits=hits)

    def _shoot(self, camera: int, stem: str, *, seconds: float, frame: int, key: bool) -> tuple[Array, Array]:
        """Write one image; returns the pixels of each actor seen and alone."""
        channel = self.vehicle.channels[camera]
        time = seconds + OFFSETS_US.get(channel, 0) * 1e-6
        moment = self.crowd.at(time)
        shot = self.painters[camera].shoot(moment, self.rng)
        options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
        done, data = cv2.imencode(".jpg", shot.image[..., ::-1], options)
        if not done:
            raise ValueError(f"OpenCV could not encode an image of {self.name}, {channel}")
        self._store(channel, stem, ".jpg", data, moment.ego, time=time, frame=frame, key=key)
        return shot.seen_px, shot.alone_px

    def _scan(self, moment: Moment, stem: str, *, seconds: float, frame: int) -> NDArray[np.int64]:
        """Write one sweep, of a vehicle that has a LiDAR; returns the hits of each actor."""
        sweep, lidar = self.scanner.sweep(moment, self.rng), self.vehicle.lidar
        if lidar is not None:
            self._store(lidar, stem, ".pcd.bin", sweep.points, moment.ego, time=seconds, frame=frame, key=True)
        return sweep.hits

    def _store(
        self,
        channel: str,
        stem: str,
        suffix: str,
        data: NDArray[np.generic],
        ego: Array,
        *,
        time: float,
        frame: int,
        key: bool,
    ) -> None:
        timestamp, index = self.placing.microseconds(time), self.counts[channel]
        self.counts[channel] += 1
        filename = f"{'samples' if key else 'sweeps'}/{channel}/{stem}__{channel}__{timestamp}{suffix}"
        (self.root / filename).write_bytes(data.tobytes())
        self._note(self.root / filename)
        size = None if channel == self.vehicle.lidar else self.settings.image_size_px
        self.rows.add_data(channel, index, sample=frame, key=key, timestamp=timestamp, filename=filename, size=size)
        self.rows.add_pose(channel, index, timestamp=timestamp, pose=self.placing.pose(ego))

    def _note(self, path: Path) -> None:
        self.files[path.relative_to(self.root).as_posix()] = path.stat().st_size

    def _annotate(self, moment: Moment, frame: int, *, share: Array, best: Array, hits: NDArray[np.int64]) -> None:
        """Boxes of what a camera sees and the LiDAR hits: nuScenes, too, annotates only what has points."""
        width, height = self.settings.image_size_px
        enough = MIN_SEEN_PX * width * height / (176 * 96)
        for k, actor in enumerate(self.crowd.actors):
            if not actor.label or hits[k] < 1 or best[k] < enough:
                continue
            self.rows.add_annotation(
                k,
                frame,
                pose=self.placing.pose(moment.poses[k]),
                size_lwh=actor.size_lwh,
                attribute=self.vehicle.attribute(actor.label, usual=actor.attribute(float(moment.speeds[k]))),
                visibility=str(1 + int(np.searchsorted([0.4, 0.6, 0.8], share[k], side="right"))),
                points=int(hits[k]),
            )


def render_scene(root: Path, *, name: str, settings: Settings, sweeps: bool) -> str:
    """Render one scene into the tree and seal it with its fragment; returns the fragment's digest.

    Args:
        root: The tree; its folders exist.
        name: Scene name, as scene-0061.
        settings: What all scenes share.
        sweeps: Whether to render 12 Hz images between key frames.
    """
    cv2.setNumThreads(0)
    fragment = _Recorder(root, settings, name).record(sweeps=sweeps)
    text = json.dumps(fragment, separators=(",", ":"))
    write_atomically(root / "scenes" / f"{name}.json", text)
    return hashlib.sha256(text.encode()).hexdigest()
