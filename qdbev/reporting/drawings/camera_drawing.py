"""Boxes drawn into camera images."""

from __future__ import annotations

import cv2
import numpy as np

from qdbev.reporting.drawings.projection import box_segments, project_segments

SHIFT = 4  # cv2 takes line ends in sixteenths of a pixel
SHADOW = (0, 0, 0)


def enlarge_image(
    image: np.ndarray, *, lidar2img: np.ndarray, width_px: int, height_px: int
) -> tuple[np.ndarray, np.ndarray]:
    """Brings an image to the size at which it is shown, and its projection with it.

    Args:
        image: (H, W, 3) uint8.
        lidar2img: (4, 4) to pixels of ``image``.
        width_px: Wanted width.
        height_px: Wanted height.

    Returns:
        The image (height_px, width_px, 3) and the (4, 4) projection to its pixels.
    """
    height, width = image.shape[:2]
    smoother = cv2.INTER_CUBIC if width_px > width else cv2.INTER_AREA
    resized = cv2.resize(np.ascontiguousarray(image), (width_px, height_px), interpolation=smoother)
    scale = np.diag([width_px / width, height_px / height, 1.0, 1.0])
    return np.asarray(resized, dtype=np.uint8), scale @ np.asarray(lidar2img, dtype=np.float64)


def draw_camera_boxes(
    image: np.ndarray,
    *,
    boxes: np.ndarray,
    lidar2img: np.ndarray,
    colours: np.ndarray,
    thickness_px: int = 1,
    shadow: float = 0.45,
) -> np.ndarray:
    """Draws the visible edges of boxes, far boxes first.

    Args:
        image: (H, W, 3) uint8, RGB; it is not changed.
        boxes: (n, 9) LiDAR frame, bottom centres (see projection.py).
        lidar2img: (4, 4) to pixels of ``image``.
        colours: (n, 3) uint8 RGB, one per box.
        thickness_px: Line width.
        shadow: Opacity of the dark line beneath each line, which keeps it readable on bright ground; 0 leaves it out.

    Returns:
        A new image of the same shape.
    """
    height, width = image.shape[:2]
    drawn = image.copy()
    order = np.argsort(-np.hypot(boxes[:, 0], boxes[:, 1]), kind="stable")
    lines = [
        (
            project_segments(segments, lidar2img=lidar2img, width_px=width, height_px=height),
            tuple(int(value) for value in colour),
        )
        for segments, colour in zip(box_segments(boxes)[order], colours[order], strict=True)
    ]
    if shadow > 0:
        dark = image.copy()
        for pieces, _ in lines:
            _draw_pieces(dark, pieces=pieces, colour=SHADOW, thickness_px=thickness_px + 2)
        drawn = np.asarray(cv2.addWeighted(dark, shadow, drawn, 1.0 - shadow, 0.0), dtype=np.uint8)
    for pieces, colour in lines:
        _draw_pieces(drawn, pieces=pieces, colour=colour, thickness_px=thickness_px)
    return drawn


def _draw_pieces(image: np.ndarray, *, pieces: np.ndarray, colour: tuple[int, ...], thickness_px: int) -> None:
    """Draws (m, 2, 2) line pieces into the image, smooth, to a sixteenth of a pixel."""
    for start, end in np.round(pieces * 2**SHIFT).astype(np.int64).tolist():
        cv2.line(image, start, end, colour, thickness_px, cv2.LINE_AA, SHIFT)
