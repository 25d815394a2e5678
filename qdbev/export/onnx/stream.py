"""An exported graph as a detector that streams: scenes frame by frame, what is carried kept for each scene."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from qdbev.detectors.detector import Detections
from qdbev.detectors.frame_graph import Frame, FrameGraph, Tensors
from qdbev.export.onnx.gate.check import Runs


@dataclass(frozen=True)
class Memory:
    """What is known of a scene when its next frame comes.

    Attributes:
        tensors: What is carried into that frame.
        before: The frames that its inputs are made of besides its own, oldest first.
    """

    tensors: Tensors
    before: Sequence[Frame] = ()


class Carried:
    """What the next frame of each scene gets, as long as it is the frame right after."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._last: dict[str, tuple[int, Memory]] = {}

    def reset(self) -> None:
        """Forgets everything."""
        self._last.clear()

    def of(self, frame: Frame) -> Memory | None:
        """What is known when a frame comes; None where the one before was not seen last."""
        index, memory = self._last.get(frame["scene"], (None, None))
        return memory if frame["prev_exists"] and index == frame["index_in_scene"] - 1 else None

    def store(self, frame: Frame, memory: Memory) -> None:
        """Keeps what a frame gave."""
        self._last[frame["scene"]] = (frame["index_in_scene"], memory)


class StreamedGraph(nn.Module):
    """Predicts as the detector does that was exported; the graph does all of it."""

    def __init__(self, frame: FrameGraph, *, session: Runs) -> None:
        """Takes a frame that says what goes in and out, and the session that runs it."""
        super().__init__()
        self.frame, self.session = frame, session
        self.history = Carried()

    def detections(self, inputs: Mapping[str, Any], data_samples: Sequence[Any]) -> Detections:
        """Token and boxes of each sample's current frame, one after the other."""
        found: Detections = []
        for place, sample in enumerate(data_samples):
            frame = sample.metainfo["frames"][-1]
            known = self.history.of(frame) or Memory(self.frame.start())
            feeds = self.frame.feeds(inputs, sample, place=place, before=known.before) | known.tensors
            outputs = self.session.run({name: value.cpu() for name, value in feeds.items()})
            self.history.store(frame, Memory(self.frame.carry(outputs), self.frame.seen(known.before, frame)))
            found += self.frame.detections(outputs, frame=frame)
        return found
