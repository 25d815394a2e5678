"""The memory of a stream: the last BEV features of each scene, found again only by the frame right after.

Shapes: B samples, Q BEV cells, C channels.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from qdbev.detectors.images.frame_batch import FrameBatch


@dataclass(frozen=True)
class History:
    """The BEV features of the frame before, as the encoder made them.

    Attributes:
        bev_BQC: features; rows of samples without history are ignored.
        present: per sample, whether there is a history; in an exported graph a tensor, which each run gives.
    """

    bev_BQC: Tensor
    present: tuple[bool, ...] | Tensor

    @property
    def matters(self) -> bool:
        """Whether any sample has a history, or may have."""
        return isinstance(self.present, Tensor) or any(self.present)


class StreamingHistory:
    """Last features per scene name. Several scenes may run in lockstep; the scenes unused for longest are forgotten."""

    def __init__(self, *, max_scenes: int = 16) -> None:
        """Keeps at most ``max_scenes`` scenes (at least as many as the batch has samples)."""
        self.max_scenes = max_scenes
        self._last: OrderedDict[str, tuple[int, Tensor]] = OrderedDict()

    def reset(self) -> None:
        """Forgets everything."""
        self._last.clear()

    def last_scene(self) -> dict[str, Tensor]:
        """The features of the scene that was seen last, by its name and the frame's index."""
        return {f"{scene}/{index}": bev_QC for scene, (index, bev_QC) in [*self._last.items()][-1:]}

    def take_up(self, kept: Mapping[str, Tensor]) -> None:
        """Go on in the scene that ``last_scene`` gave, and forget all others."""
        self.reset()
        for name, bev_QC in kept.items():
            scene, _, index = name.rpartition("/")
            self._last[scene] = (int(index), bev_QC)

    def lookup(self, frames: FrameBatch) -> History | None:
        """The history of each sample: the features of its scene's frame with the index before, if they were the last.

        Raises:
            ValueError: two samples of the batch are of the same scene.
        """
        if len(set(frames.scenes)) < len(frames.scenes):
            raise ValueError(
                f"a streaming batch holds one frame per scene, got scenes {list(frames.scenes)}: "
                "run scenes in lockstep or use batches of one"
            )
        before = [self._before(scene, index) for scene, index in zip(frames.scenes, frames.indices, strict=True)]
        present = tuple(bev is not None and follows for bev, follows in zip(before, frames.follows, strict=True))
        template = next((bev for bev in before if bev is not None), None)
        if template is None or not any(present):
            return None
        rows = [torch.zeros_like(template) if bev is None else bev for bev in before]
        return History(torch.stack(rows), present)

    def store(self, bev_BQC: Tensor, *, frames: FrameBatch) -> None:
        """Remembers the features of this step."""
        for scene, index, bev_QC in zip(frames.scenes, frames.indices, bev_BQC.detach(), strict=True):
            self._last[scene] = (index, bev_QC.clone())
            self._last.move_to_end(scene)
        while len(self._last) > max(self.max_scenes, len(frames.scenes)):
            self._last.popitem(last=False)

    def _before(self, scene: str, index: int) -> Tensor | None:
        last_index, bev_QC = self._last.get(scene, (None, None))
        return bev_QC if last_index == index - 1 else None
