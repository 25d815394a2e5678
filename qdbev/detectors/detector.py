"""What every detector offers, whoever wrote it: pipelines name no class of a detector, they ask this Protocol.

What a detector cannot do, it says itself: ``cannot`` gives the sentence without running anything, and the methods that
need it raise it.

Shapes: N cameras, K object queries, C classes, D numbers of a box code, B samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, Literal, Protocol

import torch
from mmdet3d.structures import Det3DDataSample
from mmengine.structures import InstanceData
from torch import Tensor

from qdbev.detectors.frame_graph import FrameGraph

Ability = Literal["stages", "shapes", "export"]
"""To run part by part, to run by shapes alone, and to be one graph of tensors."""
Detections = list[tuple[str, InstanceData]]
"""Token of a key frame and its boxes: ``bboxes_3d`` with 9 numbers in the lidar's frame, ``scores_3d`` best first, and
``labels_3d`` in the order of nuScenes' classes as qdbev counts them."""
Step = Callable[[Any], Any]


class Memory(Protocol):
    """What a temporal detector keeps from frame to frame."""

    def reset(self) -> None:
        """Forget everything."""

    def last_scene(self) -> dict[str, Tensor]:
        """What is kept of the scene that was seen last, by names that ``take_up`` understands."""

    def take_up(self, kept: Mapping[str, Tensor]) -> None:
        """Go on in the scene that ``last_scene`` gave, and forget all others."""


class NoHistory:
    """Stands where a temporal detector keeps what it saw before."""

    def reset(self) -> None:
        """Does nothing: every frame is seen alone."""

    def last_scene(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def take_up(self, kept: Mapping[str, Tensor]) -> None:
        """Does nothing."""


@dataclass(frozen=True)
class Scene:
    """What a detector's cost depends on besides its numbers.

    Attributes:
        image_px: (height, width) of the padded network input.
        lidar2img_N44: LiDAR metres to pixels of the network input.
        padding_px: (rows below, columns at the right) of the images that are padding.
    """

    image_px: tuple[int, int]
    lidar2img_N44: Tensor
    padding_px: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Stages:
    """One frame of every sample on its way through a detector, part by part.

    Attributes:
        first: What the first part takes.
        steps: Part -> what it does to what the part before gave, in the order that they run.
        outputs: Of what the last part gave, logits (B, K, C) and box codes (B, K, D) of the last decoder layer.
        detections: Of what the last part gave, tokens and boxes.
        memory_part: The part whose output the frame after this one sees, in the same part; None where every frame is
            seen alone.
        remember: Keeps what that part gave.
    """

    first: Any
    steps: Mapping[str, Step]
    outputs: Callable[[Any], tuple[Tensor, Tensor]]
    detections: Callable[[Any], Detections]
    memory_part: str | None
    remember: Callable[[Any], None]

    def streamed(self) -> dict[str, Step]:
        """The steps as a stream takes them: what is to be remembered is, and the last goes on to tokens and boxes."""
        steps = {part: partial(self.stepped, part) for part in self.steps}
        *_, last = steps
        return {**steps, last: lambda value: self.detections(steps[last](value))}

    def stepped(self, part: str, value: Any) -> Any:
        """What a part makes of what the part before gave; remembered where the next frame sees it."""
        given = self.steps[part](value)
        if part == self.memory_part:
            self.remember(given)
        return given


class Detector(Protocol):
    """A detector; all of them are torch modules too, which Python's types cannot say of a Protocol."""

    @property
    def history(self) -> Memory:
        """What ``detections`` has seen of the scenes that it streams."""

    @property
    def memory_part(self) -> str | None:
        """The part whose output the next frame sees; None where every frame is seen alone."""

    def parts(self) -> dict[str, list[str]]:
        """Backbone, neck, encoder and decoder as paths of modules and parameters; a part may be empty."""

    def output_layers(self) -> list[str]:
        """Paths or patterns of the last layers; none leaves the choice to the plan."""

    def first_positions(self) -> tuple[str, ...]:
        """Paths of what gives first sampling coordinates that no image changes."""

    def value_pairs(self) -> tuple[tuple[str, str], ...]:
        """Paths of two linear layers each that a channel passes between apart from all others."""

    def set_code_weights(self, weights: Sequence[float]) -> None:
        """Weigh the numbers of a box code in the loss; a detector whose own config says how keeps those."""

    def forward(self, inputs: dict[str, Any], data_samples: list[Det3DDataSample], mode: str = "tensor") -> Any:
        """Modes "loss", "predict" and "tensor" as in mmdet3d, and those of distillation, which give ``Features``.

        The student's is "loss_with_features"; the teacher's "features", or "features_with_outputs" with the decoder.
        """

    def detections(self, inputs: dict[str, Any], data_samples: list[Det3DDataSample]) -> Detections:
        """Tokens and boxes of a batch of the streaming data set, the history carried along each scene."""

    def cannot(self, ability: Ability) -> str:
        """Why the detector is not able to do something, in one sentence; empty where it is."""

    def new_history(self, *, scenes: int) -> Any:
        """A memory of its own for ``stages``, empty, of so many scenes side by side."""

    def stages(self, inputs: dict[str, Any], data_samples: list[Det3DDataSample], *, history: Any) -> Stages:
        """The current frame of a batch part by part; ``history``, from ``new_history``, is looked up when needed."""

    def noise_stages(self, scene: Scene, *, device: torch.device) -> Stages:
        """One frame of noise that follows another, part by part, to be timed."""

    def shape_run(self, scene: Scene, *, training: bool = False) -> Callable[[], object]:
        """What runs one frame by shapes alone, as far as the decoder's outputs; it moves to the meta device for good.

        Args:
            scene: The images' size and the cameras.
            training: In training mode and with gradients.
        """

    def frame_graph(self, scene: Scene) -> FrameGraph:
        """One frame of one sample as a graph of tensors, for images of the scene's size."""

    def feature_sizes(self, scene: Scene) -> dict[str, int]:
        """How many numbers each field of ``Features`` has of one sample, by a run of shapes."""

    def sampling_repeats(self, scene: Scene) -> dict[str, Fraction]:
        """How often each sampling operation runs besides once a query, by path."""

    def official_repeats(self, scene: Scene) -> dict[str, Fraction]:
        """How much more often the authors' code runs a layer than this one does, by path; others run alike."""
