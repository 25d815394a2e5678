"""One frame of one sample as a graph of tensors alone, with names: what an exporter traces and a runtime runs.

What a detector remembers goes in as an input and comes out as an output; the caller carries it to the next frame.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmdet3d.structures import Det3DDataSample
from mmengine.structures import InstanceData
from torch import Tensor, nn

Tensors = dict[str, Tensor]
Frame = Mapping[str, Any]
"""What the data room says of one time step: token, scene, cameras, poses."""


class TensorGraph(nn.Module):
    """What is traced; its ``forward`` takes the inputs in order and gives the outputs in order, shapes fixed.

    Attributes:
        inputs: Name -> an example, in the order of ``forward``.
        outputs: Names, in the order of ``forward``.
        carried: Output -> the input that it is at the next frame of the same scene.
        meanings: Name of an input or output -> what it is, in a line.
        detector: What it runs.
        foreign: Whether its code and the units of its outputs are somebody else's: outputs are then told by their own
            size, and what a trace would get wrong without a word is looked for.
    """

    detector: Any
    inputs: Tensors
    outputs: tuple[str, ...]
    carried: Mapping[str, str]
    meanings: Mapping[str, str]
    foreign: bool = False

    def run(self, feeds: Mapping[str, Tensor]) -> Tensors:
        """The outputs by name, computed by torch."""
        with torch.no_grad():
            return dict(zip(self.outputs, self(*(feeds[name] for name in self.inputs)), strict=True))

    def start(self) -> Tensors:
        """The carried inputs where nothing was seen before."""
        return {}

    def carry(self, outputs: Mapping[str, Tensor]) -> Tensors:
        """The carried inputs of the next frame."""
        return {}


class FrameGraph(TensorGraph):
    """One frame from images to boxes.

    Attributes:
        frames_back: How many frames before the current one of a scene ``feeds`` looks at.
        circles_m2: For each task of a map of centres, the SQUARED distance within which a host may take two peaks for
            one object; none where no two outputs are of one object.
    """

    frames_back: int = 0
    circles_m2: Sequence[float] = ()

    def seen(self, before: Sequence[Frame], frame: Frame) -> list[Frame]:
        """The frames before the next one that ``feeds`` looks at, given those before this one."""
        return [*before, frame][-self.frames_back :] if self.frames_back else []

    @abstractmethod
    def feeds(
        self, inputs: Mapping[str, Any], sample: Det3DDataSample, *, place: int, before: Sequence[Frame] = ()
    ) -> Tensors:
        """What goes in for one sample of a batch, without what is carried.

        Args:
            inputs: The batch, as the detector takes it.
            sample: The data sample.
            place: Which of the batch it is.
            before: The frames right before in the scene, oldest first, as ``seen`` gives them.

        Raises:
            ValueError: Images of another size than the graph's.
        """

    @abstractmethod
    def detections(self, outputs: Mapping[str, Tensor], *, frame: Frame) -> list[tuple[str, InstanceData]]:
        """Token and boxes of what came out for a frame."""
