"""From 3D boxes to line segments in an image: corners, edges, and clipping before the division by depth.

Boxes are rows x, y, z, dx, dy, dz, yaw, vx, vy as in mmdet3d's LiDARInstance3DBoxes: (x, y, z) is the centre of the
BOTTOM face in metres, dx lies along the heading, yaw turns counter-clockwise from the x axis seen from above. In
nuScenes' LIDAR_TOP frame x points right and y forward.
"""

from __future__ import annotations

import numpy as np

# Corners 0 to 3 are the bottom face, 4 to 7 the top face above them; 0 and 1 are the front.
CORNER_SIGNS = np.array([(0.5, 0.5), (0.5, -0.5), (-0.5, -0.5), (-0.5, 0.5)])
EDGES = np.array(
    [(0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7)],
)
NEAR_M = 0.2


def ground_corners(boxes: np.ndarray) -> np.ndarray:
    """Corners of the boxes seen from above, front left first, then clockwise.

    Args:
        boxes: (n, 7 or more).

    Returns:
        (n, 4, 2) x and y in metres.

    >>> ground_corners(np.array([[10.0, 0.0, -1.0, 4.0, 2.0, 1.5, 0.0]]))[0].tolist()
    [[12.0, 1.0], [12.0, -1.0], [8.0, -1.0], [8.0, 1.0]]
    """
    local = CORNER_SIGNS[None] * boxes[:, None, 3:5]
    cosine, sine = np.cos(boxes[:, 6])[:, None], np.sin(boxes[:, 6])[:, None]
    turned = np.stack(
        [local[..., 0] * cosine - local[..., 1] * sine, local[..., 0] * sine + local[..., 1] * cosine], axis=-1
    )
    return turned + boxes[:, None, :2]


def box_corners(boxes: np.ndarray) -> np.ndarray:
    """All corners: the bottom face as in ``ground_corners``, then the top face.

    Args:
        boxes: (n, 7 or more).

    Returns:
        (n, 8, 3) in metres.
    """
    ground = ground_corners(boxes)
    bottom = np.concatenate([ground, np.broadcast_to(boxes[:, None, 2:3], (len(boxes), 4, 1))], axis=-1)
    return np.concatenate([bottom, bottom + np.array([0.0, 0.0, 1.0]) * boxes[:, None, 5:6]], axis=1)


def box_segments(boxes: np.ndarray) -> np.ndarray:
    """The lines that draw a box: its twelve edges, and on the ground a line from the centre to the front.

    Args:
        boxes: (n, 7 or more).

    Returns:
        (n, 13, 2, 3): start and end of each line, in metres.
    """
    corners = box_corners(boxes)
    front = (corners[:, 0] + corners[:, 1]) / 2
    heading = np.stack([boxes[:, :3], front], axis=1)[:, None]
    return np.concatenate([corners[:, EDGES], heading], axis=1)


def project_segments(
    segments: np.ndarray, *, lidar2img: np.ndarray, width_px: int, height_px: int, margin_px: float = 8.0
) -> np.ndarray:
    """Projects line segments and keeps the pieces that the camera sees.

    Clipping happens in homogeneous coordinates, before the division: a segment that passes the camera is cut at
    ``NEAR_M`` in front of it, where projecting its far end would throw it to the wrong side of the image.

    Args:
        segments: (k, 2, 3) in metres, LiDAR frame.
        lidar2img: (4, 4), its first two rows in pixels of the image to draw on.
        width_px: Image width.
        height_px: Image height.
        margin_px: How far beyond the image's border a piece may reach, so that thick lines end outside.

    Returns:
        (m, 2, 2) pixel coordinates u, v of the visible pieces, m at most k.
    """
    homogeneous = np.concatenate([segments, np.ones((*segments.shape[:2], 1))], axis=-1) @ lidar2img[:3].T
    low, right, bottom = -margin_px, width_px + margin_px, height_px + margin_px
    # Each row is a plane n with n . (u w, v w, w) >= offset for what is visible.
    planes = np.array([(0, 0, 1.0), (1.0, 0, -low), (-1.0, 0, right), (0, 1.0, -low), (0, -1.0, bottom)])
    offsets = np.array([NEAR_M, 0.0, 0.0, 0.0, 0.0])
    clipped = _clip(homogeneous, planes=planes, offsets=offsets)
    return clipped[..., :2] / clipped[..., 2:]


def _clip(segments: np.ndarray, *, planes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Liang and Barsky's rule: the part of each segment, from t0 to t1, that lies inside every plane."""
    inside = segments @ planes.T - offsets  # (k, 2, p): positive is inside
    start, end = inside[:, 0], inside[:, 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = start / (start - end)
    first = np.where((start < 0) & (end >= 0), crossing, 0.0).max(axis=1, initial=0.0)
    last = np.where((start >= 0) & (end < 0), crossing, 1.0).min(axis=1, initial=1.0)
    seen = (first < last) & ~((start < 0) & (end < 0)).any(axis=1)
    direction = (segments[:, 1] - segments[:, 0])[seen]
    ends = np.stack([first[seen], last[seen]], axis=1)
    return segments[seen][:, :1] + ends[..., None] * direction[:, None]
