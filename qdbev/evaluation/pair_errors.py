"""The five true-positive errors of many matched pairs at once, with the last bit of the devkit's own functions.

``np.linalg.norm``, ``np.dot`` and pyquaternion's rotation matrix end in BLAS, whose rounding is its own. Stacked
products of the same shapes end there, too: (n, 1, k) @ (n, k, 1) is n calls of what ``np.dot`` calls.
Source: nuscenes-devkit, ``eval/common/utils.py``; pyquaternion, ``Quaternion.rotation_matrix``.
"""

from __future__ import annotations

import numpy as np

from qdbev.evaluation.boxes import Boxes, Floats

_UNIT = 1e-14  # how far the square of a norm may be from 1 for pyquaternion to leave a quaternion as it is


def pair_errors(truth: Boxes, *, boxes: Boxes, period: float) -> Floats:
    """Errors (5, H) of H matched pairs in the order of the devkit's ``TP_METRICS``; NaN where one has no value.

    Args:
        truth: Ground truth boxes.
        boxes: What is matched to each.
        period: Of the heading: pi where front and back are alike.

    Raises:
        ValueError: A box has an edge that is not above 0.
    """
    known = truth.attribute != 0
    return np.stack(
        [
            distances(boxes.translation[:, :2] - truth.translation[:, :2]),
            1 - _scale_iou(truth.size, other=boxes.size),
            np.abs(_turned(yaws(truth.rotation) - yaws(boxes.rotation), period=period)),
            distances(boxes.velocity - truth.velocity),
            np.where(known, 1.0 - (truth.attribute == boxes.attribute), np.nan),
        ]
    )


def distances(apart: Floats) -> Floats:
    """Lengths (n,) of vectors (n, k)."""
    return np.sqrt(_squares(apart))


def _squares(vectors: Floats) -> Floats:
    return np.asarray((vectors[:, None, :] @ vectors[:, :, None])[:, 0, 0])


def _scale_iou(size: Floats, *, other: Floats) -> Floats:
    """Intersection over union of boxes put onto each other."""
    if not ((size > 0).all() and (other > 0).all()):
        raise ValueError("a matched box has a size that is not above 0.")
    shared = np.prod(np.minimum(size, other), axis=1)
    return shared / (np.prod(size, axis=1) + np.prod(other, axis=1) - shared)


def yaws(rotation: Floats) -> Floats:
    """Heading (n,) of quaternions (n, 4): where the x axis points in the plane. A zero has no sign, as in a product."""
    square = _squares(rotation)
    scaled = (np.abs(1.0 - square) >= _UNIT) & (square > 0)
    unit = np.where(scaled[:, None], rotation / np.sqrt(np.where(scaled, square, 1.0))[:, None], rotation)
    w, x, y, z = unit.T
    left = np.array([[w, -x, -y, -z], [x, w, -z, y], [y, z, w, -x], [z, -y, x, w]])
    right = np.array([[w, -x, -y, -z], [x, w, z, -y], [y, -z, w, x], [z, y, -x, w]])
    turn = np.ascontiguousarray(left.transpose(2, 0, 1)) @ np.ascontiguousarray(right.transpose(2, 0, 1)).swapaxes(1, 2)
    return np.asarray(np.arctan2(turn[:, 2, 1] + 0.0, turn[:, 1, 1] + 0.0))


def _turned(difference: Floats, *, period: float) -> Floats:
    """Angles brought to half a period on either side of 0, then below pi."""
    angle = (difference + period / 2) % period - period / 2
    return np.where(angle > np.pi, angle - 2 * np.pi, angle)
