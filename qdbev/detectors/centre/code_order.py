"""The order in which a centre head predicts the numbers of a box, to and from the box code of ``boxes/box_code.py``.

Shapes: a last axis of 10. A box code is x, y, log w, log l, z, log h, sin and cos of the mmdet3d 0.x heading, vx, vy.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CodeOrder:
    """Which number of the box code each output is, and its sign.

    Attributes:
        places: Index in the box code, for each of the ten outputs.
        signs: 1 or -1 for each of them.
    """

    places: tuple[int, ...]
    signs: tuple[float, ...] = (1.0,) * 10

    def of_box_code(self, code: Tensor) -> Tensor:
        """Box codes as the head predicts them, with metric centres."""
        return code[..., self.places] * code.new_tensor(self.signs)

    def to_box_code(self, output: Tensor) -> Tensor:
        """What the head predicts as box codes.

        >>> code = torch.arange(10.0)
        >>> torch.equal(LENGTH_FIRST.to_box_code(LENGTH_FIRST.of_box_code(code)), code)
        True
        """
        back = torch.tensor(self.places, device=output.device).argsort()
        return (output * output.new_tensor(self.signs))[..., back]


WIDTH_FIRST = CodeOrder((0, 1, 4, 2, 3, 5, 6, 7, 8, 9))
"""mmdet3d 0.x: x, y, z, log of width, length, height, sin and cos of its own heading, velocity."""
LENGTH_FIRST = CodeOrder((0, 1, 4, 3, 2, 5, 7, 6, 8, 9), (1.0,) * 6 + (-1.0, -1.0, 1.0, 1.0))
"""mmdet3d 1.x: length before width, sin and cos of the yaw, counter-clockwise from x (the heading is -yaw - pi/2)."""
