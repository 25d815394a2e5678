"""What a kind of detector that lifts images brings itself: its parts, and the way from images to maps of a head.

Shapes: B samples, N cameras, E = B N images, C channels, H W of an image or map.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from mmdet3d.models.detectors import Base3DDetector
from torch import Tensor, nn

from qdbev.detectors.auxiliary import ImageHead
from qdbev.detectors.centre import CentreGrid, CodeOrder, Decoding
from qdbev.detectors.lift.frames import CameraFrames
from qdbev.detectors.lift.frustum import VoxelGrid
from qdbev.detectors.lift.history import Past
from qdbev.detectors.lift.lifted import Lifted
from qdbev.detectors.lift.outputs import Decoded, Encoded


class LiftNetwork(Base3DDetector):
    """Parts, stages and numbers, which ``LiftDetector`` builds upon.

    Attributes:
        grid: The ground's cells.
        image_px: Height and width of the network's input.
        frames_back: Key frames between the current and the past frame; 0: every frame is seen alone.
        order: In which the head predicts the numbers of a box.
        decoding: Which cells become boxes.
        code_weights: Weights of the ten numbers in the loss.
        tasks: Class indices of each group that the head has maps for.
        auxiliary: The dense head on image features that only training uses, or None.
    """

    grid: VoxelGrid
    image_px: tuple[int, int]
    frames_back: int
    order: CodeOrder
    decoding: Decoding
    code_weights: tuple[float, ...]
    tasks: tuple[tuple[int, ...], ...]
    auxiliary: ImageHead | None

    def __init__(self, data_preprocessor: dict[str, Any] | None, init_cfg: dict[str, Any] | None) -> None:
        """Without an auxiliary head."""
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.auxiliary = None

    @property
    def temporal(self) -> bool:
        """Whether a past frame is looked at."""
        return self.frames_back > 0

    @property
    def memory_part(self) -> str | None:
        """The part whose output the next frame sees."""
        return "encoder" if self.temporal else None

    @property
    def centre_grid(self) -> CentreGrid:
        """The cells as the head sees them."""
        grid = self.grid
        return CentreGrid((grid.low_m[0], grid.low_m[1]), grid.cell_m[0], grid.rows, grid.columns)

    @abstractmethod
    def backbone_features(self, img_BNCHW: Tensor) -> tuple[Tensor, ...]:
        """Backbone maps of all images, each (B N, C, H, W)."""

    @abstractmethod
    def neck_features(self, backbone_maps: Sequence[Tensor]) -> Tensor:
        """The neck's map (B N, C, H, W)."""

    @abstractmethod
    def lift(self, image_ECHW: Tensor, *, frames: CameraFrames) -> Lifted:
        """Depths and features of every pixel of the neck's map; ``frames`` are the current ones for past images too."""

    @abstractmethod
    def encode(self, lifted: Lifted, *, frames: CameraFrames, past: Past | None) -> Encoded:
        """Features of the ground, with the past frame where the detector is temporal."""

    @abstractmethod
    def decode(self, encoded: Encoded) -> Decoded:
        """The maps of every task."""

    @abstractmethod
    def head_losses(self, decoded: Decoded, *, boxes: list[Tensor], labels: list[Tensor]) -> dict[str, Tensor]:
        """Losses of the head; boxes and labels of each sample, as in the data."""

    @abstractmethod
    def image_paths(self) -> tuple[str, ...]:
        """Paths of what the official code runs again for the past frame."""

    @abstractmethod
    def parts(self) -> dict[str, list[str]]:
        """The paper's four parts as paths of modules, together everything."""

    @abstractmethod
    def head_layers(self) -> list[nn.Module]:
        """The layers that the head's maps come out of."""
