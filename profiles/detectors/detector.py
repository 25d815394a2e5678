"""What a profile says of any detector; each kind has a section of its own, which adds what that kind is told."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

from pydantic import Field

from profiles.detectors.image import Framing, ImageProfile
from profiles.document import LONGEST_NAME, NAME, Document

FEATURES = ("image", "bev", "mask", "logits", "code")
"""What distillation can compare."""


class DetectorProfile(Document):
    """The detector to compress; ``detector`` says which of the sections it is."""

    name: str = Field(default="unnamed", pattern=NAME, max_length=LONGEST_NAME)
    """Name in artifact folders and tables: nano, tiny, small, base or one's own."""
    detector: str
    """Its kind, which decides the other fields."""
    weights: str | None = None
    """Float weights: zoo (shipped with qdbev), random, the path of a .safetensors or .pth file, an artifact of
    the store, or null (what was imported last)."""

    @property
    @abstractmethod
    def backbone_paths(self) -> tuple[str, ...]:
        """Paths of the backbone's modules in the detector."""

    @property
    def empty_parts(self) -> tuple[str, ...]:
        """Parts that the detector does not have."""
        return ()

    @property
    def tapped(self) -> tuple[str, ...]:
        """The features that the detector gives, of ``FEATURES``."""
        return FEATURES

    @property
    def mask_follows_boxes(self) -> bool:
        """Whether the view mask is of what the detector predicts, so that distillation takes its teacher's."""
        return False

    @property
    def code_weights(self) -> tuple[float, ...]:
        """Weights of the numbers of a box code in the loss; none where the profile does not say them."""
        return ()

    def framing(self, image_size_px: tuple[int, int]) -> Framing:
        """How images of a width and height become the network's input, as far as the profile says it."""
        return ImageProfile().framing(image_size_px)

    @property
    def unsteady(self) -> str:
        """Why two visits of a training sample differ whatever the schedule says; empty where they need not."""
        return ""

    @property
    def program(self) -> tuple[str | None, str | None]:
        """The config file that describes it, which may be a program, and its sha256; None where fields describe it."""
        return None, None

    def fits(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether tensors of these shapes, by name, have the numbers that tell it from others of its kind."""
        return False
