"""How a camera image becomes the input of a detector that lifts images: scaled and cut to one size."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from profiles.detectors.image import Framing, Level, Spread
from profiles.document import Document

Side = Annotated[int, Field(ge=32, le=4096, multiple_of=32)]


class CropProfile(Document):
    """How a camera image becomes the network's input: scale, cut the middle of the bottom, normalise."""

    scale: float = Field(default=0.48, ge=0.02, le=4)
    """Factor on both sides of the image before it is cut; 0.48 makes 900x1600 into 432x768."""
    size_px: tuple[Side, Side] = (704, 256)
    """Width and height of the network's input, multiples of 32; what an image does not fill is black."""
    mean: tuple[Level, Level, Level] = (123.675, 116.28, 103.53)
    """Subtracted per channel, in the order the network sees the channels, for pixels of 0 to 255."""
    std: tuple[Spread, Spread, Spread] = (58.395, 57.12, 57.375)
    """Divided by per channel, after the mean."""
    to_rgb: bool = True
    """Feed RGB (true) or BGR (false)."""

    def framing(self, image_size_px: tuple[int, int]) -> Framing:
        """The framing of images of a width and height; ``top_px`` is negative where they are lower than the input."""
        width, height = (int(side * self.scale) for side in image_size_px)
        left = max(0, width - self.size_px[0]) // 2
        return Framing(self.size_px[::-1], self.scale, height - self.size_px[1], left)
