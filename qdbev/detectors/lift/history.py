"""The memory of a stream: what the last frames of each scene gave before they were laid onto the ground.

The current frame's cameras decide the cells of the past one too, so that nothing is kept that depends on them.
Shapes: B samples.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from qdbev.detectors.lift.frames import CameraFrames
from qdbev.detectors.lift.lifted import Lifted

KEY_FRAME_S = 0.5


@dataclass(frozen=True)
class Past:
    """The frame that the current one is compared with; where there is none it is the current one itself.

    Attributes:
        lifted: Of every sample.
        lidar2global_B44: Its pose.
        lidar2ego_B44: The LiDAR's place on the vehicle.
        cam2lidar_BN44: Its cameras.
        time_B: Seconds.
        present: Per sample, whether it is another frame than the current one.
    """

    lifted: Lifted
    lidar2global_B44: Tensor
    lidar2ego_B44: Tensor
    cam2lidar_BN44: Tensor
    time_B: Tensor
    present: tuple[bool, ...]


class Entry(NamedTuple):
    """One frame of one sample."""

    place: int  # in the scene
    lifted: Lifted
    lidar2global_44: Tensor
    lidar2ego_44: Tensor
    cam2lidar_N44: Tensor
    time: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """Its tensors by name."""
        poses = {name: getattr(self, name) for name in self._fields[2:]}
        return {"depth_EDP": self.lifted.depth_EDP, "context_EPC": self.lifted.context_EPC, **poses}

    @classmethod
    def of(cls, place: int, tensors: Mapping[str, Tensor]) -> Entry:
        """The frame at a place of the scene that has these tensors."""
        poses = {name: tensors[name] for name in cls._fields[2:]}
        return cls(place, Lifted(tensors["depth_EDP"], tensors["context_EPC"]), **poses)


class LiftHistory:
    """The last frames of each scene. Scenes may run in lockstep; those unused for longest are forgotten."""

    def __init__(self, *, frames_back: int, max_scenes: int = 16) -> None:
        """An empty memory.

        Args:
            frames_back: How many frames before the current one the past one lies; the first frames of a scene take the
                oldest that there is.
            max_scenes: Scenes at most (at least as many as a batch has samples).
        """
        self.frames_back, self.max_scenes = frames_back, max_scenes
        self._scenes: OrderedDict[str, deque[Entry]] = OrderedDict()

    def reset(self) -> None:
        """Forgets everything."""
        self._scenes.clear()

    def last_scene(self) -> dict[str, Tensor]:
        """The frames of the scene that was seen last, by its name and their places."""
        return {
            f"{scene}/{entry.place}/{name}": tensor
            for scene, entries in [*self._scenes.items()][-1:]
            for entry in entries
            for name, tensor in entry.tensors().items()
        }

    def take_up(self, kept: Mapping[str, Tensor]) -> None:
        """Go on in the scene that ``last_scene`` gave, and forget all others."""
        self.reset()
        frames: dict[tuple[str, int], dict[str, Tensor]] = {}
        for path, tensor in kept.items():
            scene, place, name = path.rsplit("/", 2)
            frames.setdefault((scene, int(place)), {})[name] = tensor
        for scene, at in sorted(frames):
            entries = self._scenes.setdefault(scene, deque(maxlen=self.frames_back))
            entries.append(Entry.of(at, frames[scene, at]))

    def lookup(self, frames: CameraFrames) -> list[Entry | None]:
        """The past frame of each sample, None at the start of a scene or where a frame is missing in between.

        Raises:
            ValueError: Two samples of the batch are of the same scene.
        """
        if len(set(frames.scenes)) < len(frames.scenes):
            raise ValueError(
                f"a streaming batch holds one frame per scene, got scenes {list(frames.scenes)}: "
                "run scenes in lockstep or use batches of one"
            )
        return [
            self._before(scene, index) if follows else None
            for scene, index, follows in zip(frames.scenes, frames.indices, frames.follows, strict=True)
        ]

    def store(self, lifted: Lifted, *, frames: CameraFrames) -> None:
        """Remembers this step."""
        cameras = frames.cam2lidar_BN44.shape[1]
        for sample, (scene, index) in enumerate(zip(frames.scenes, frames.indices, strict=True)):
            entries = self._scenes.setdefault(scene, deque(maxlen=self.frames_back))
            if not (entries and frames.follows[sample] and entries[-1].place == index - 1):
                entries.clear()
            entries.append(_entry(lifted.of(sample, cameras=cameras), frames=frames, sample=sample))
            self._scenes.move_to_end(scene)
        while len(self._scenes) > max(self.max_scenes, len(frames.scenes)):
            self._scenes.popitem(last=False)

    def _before(self, scene: str, index: int) -> Entry | None:
        entries = self._scenes.get(scene)
        return entries[0] if entries and entries[-1].place == index - 1 else None


def _entry(lifted: Lifted, *, frames: CameraFrames, sample: int) -> Entry:
    return Entry(
        frames.indices[sample],
        lifted,
        frames.lidar2global_B44[sample],
        frames.lidar2ego_B44[sample],
        frames.cam2lidar_BN44[sample],
        frames.time_B[sample],
    )


def entries_of(lifted: Lifted, *, frames: CameraFrames, wanted: Sequence[bool]) -> list[Entry | None]:
    """Every sample's frame where it is wanted, else None."""
    cameras = frames.cam2lidar_BN44.shape[1]
    return [
        _entry(lifted.of(sample, cameras=cameras), frames=frames, sample=sample) if is_wanted else None
        for sample, is_wanted in enumerate(wanted)
    ]


def past_of(lifted: Lifted, *, frames: CameraFrames, entries: Sequence[Entry | None] | None) -> Past:
    """The past of a batch: what was found, or the current frame itself.

    Args:
        lifted: Of the current frame.
        frames: The current frame.
        entries: From ``LiftHistory.lookup`` or ``entries_of``; None: nothing is known.
    """
    cameras = frames.cam2lidar_BN44.shape[1]
    found = entries or [None] * len(frames.scenes)
    rows = [
        entry or _entry(lifted.of(sample, cameras=cameras), frames=frames, sample=sample)
        for sample, entry in enumerate(found)
    ]
    return Past(
        Lifted.together([row.lifted for row in rows]),
        torch.stack([row.lidar2global_44 for row in rows]),
        torch.stack([row.lidar2ego_44 for row in rows]),
        torch.stack([row.cam2lidar_N44 for row in rows]),
        torch.stack([row.time for row in rows]),
        tuple(entry is not None for entry in found),
    )


def gap_s(past: Past, *, frames: CameraFrames, frames_back: int) -> Tensor:
    """(B,) seconds to the past frame; what they would be where there is none, so that nothing is divided by zero."""
    nominal = frames.time_B.new_tensor(frames_back * KEY_FRAME_S)
    present = torch.tensor(past.present, device=nominal.device)
    return torch.where(present, (frames.time_B - past.time_B).abs(), nominal)
