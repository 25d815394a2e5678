"""How a camera image becomes the network's input."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from pydantic import Field

from profiles.document import Document

Level = Annotated[float, Field(ge=0, le=255)]
Spread = Annotated[float, Field(gt=0)]


class Framing(NamedTuple):
    """Where the pixels of a camera image go: scaled, then cut off at the top and left, then padded right and below."""

    network_px: tuple[int, int]
    """(height, width) of the network's input."""
    scale: float
    """Factor on both sides."""
    top_px: int
    """Rows cut off behind scaling."""
    left_px: int = 0
    """Columns cut off at the left behind scaling."""
    padding_px: tuple[int, int] = (0, 0)
    """(rows below, columns at the right) of the network's input that are zeros."""


class ImageProfile(Document):
    """How a camera image becomes the network's input: normalise, then scale, then pad right and bottom."""

    scale: float = Field(default=1.0, ge=0.02, le=4)
    """Factor on both sides of the image; 0.5 makes 900x1600 into 450x800."""
    pad_divisor: int = Field(default=32, ge=1, le=1024)
    """Both sides are padded with zeros to the next multiple of this many pixels."""
    mean: tuple[Level, Level, Level] = (123.675, 116.28, 103.53)
    """Subtracted per channel, in the order the network sees the channels, for pixels of 0 to 255."""
    std: tuple[Spread, Spread, Spread] = (58.395, 57.12, 57.375)
    """Divided by per channel, after the mean."""
    to_rgb: bool = True
    """Feed RGB (true) or BGR (false)."""

    def framing(self, image_size_px: tuple[int, int]) -> Framing:
        """The framing of images of a width and height."""
        width, height = image_size_px
        padded = [-(-round(side * self.scale) // self.pad_divisor) * self.pad_divisor for side in (height, width)]
        padding = [whole - int(side * self.scale) for whole, side in zip(padded, (height, width), strict=True)]
        return Framing((padded[0], padded[1]), self.scale, 0, padding_px=(padding[0], padding[1]))
