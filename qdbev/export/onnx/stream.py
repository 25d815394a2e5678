"""An exported graph as a detector that streams: scenes frame by frame, what is carried kept for each scene."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from qdbev.detectors.detector import Detections
from qdbev.detectors.frame_graph import FrameGraph, Tensors
from qdbev.export.onnx.gate.check import Runs


class Carried:
    """What the next frame of each scene gets, as long as it is the frame right after."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._last: dict[str, tuple[int, Tensors]] = {}

    def reset(self) -> None:
        """Forgets everything."""
        self._last.clear()

    def of(self, frame: Mapping[str, Any]) -> Tensors | None:
        """What is carried into a frame; None where the one before was not seen last."""
        index, tensors = self._last.get(frame["scene"], (None, None))
        return tensors if frame["prev_exists"] and index == frame["index_in_scene"] - 1 else None

    def store(self, frame: Mapping[str, Any], tensors: Tensors) -> None:
        """Keeps what a frame gave."""
        self._last[frame["scene"]] = (frame["index_in_scene"], tensors)


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
            carried = self.history.of(frame) or self.frame.start()
            feeds = {**self.frame.feeds(inputs, sample, place=place), **carried}
            outputs = self.session.run({name: value.cpu() for name, value in feeds.items()})
            self.history.store(frame, self.frame.carry(outputs))
            found += self.frame.detections(outputs, token=str(frame["token"]))
        return found
