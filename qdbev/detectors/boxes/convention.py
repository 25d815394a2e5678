"""Box codes of two conventions: official detectors of object queries speak mmdet3d 0.17's, and so do we.

OpenMMLab's converter of DETR3D turns the last layer of every box branch to mmdet3d 1.0's: rows 2 and 3 (log width, log
length) change places, and rows 6 and 7 (sine, cosine) become minus the other. It marks the file. Taken as it is, such a
file would swap width and length and turn every box by a right angle; the same step again undoes it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

MARK = "detr3d_convert_tag"
"""In the ``meta`` of a converted file."""
_LAST_LAYER = re.compile(r"(^|\.)reg_branches\.\d+\.4\.(weight|bias)$")
_ORDER = [0, 1, 3, 2, 4, 5, 7, 6]
_SIGN = [1, 1, 1, 1, 1, 1, -1, -1]


def in_official_code(
    state: Mapping[str, Tensor], *, marks: Collection[str]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Tensors whose box branches speak mmdet3d 0.17's code, and a sentence where those given did not.

    Args:
        state: Tensors by official names.
        marks: What the file's ``meta`` holds.
    """
    if MARK not in marks:
        return dict(state), ()
    return turned(state), ("box branches turned back to mmdet3d 0.17's code: the file was converted to 1.0's",)


def turned(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with the last layers of the box branches in the other convention; twice gives the first again.

    >>> turned({"reg_branches.0.4.bias": torch.arange(10.0)})["reg_branches.0.4.bias"].tolist()
    [0.0, 1.0, 3.0, 2.0, 4.0, 5.0, -7.0, -6.0, 8.0, 9.0]
    """
    return {name: _turned(tensor) if _LAST_LAYER.search(name) else tensor for name, tensor in state.items()}


def _turned(rows: Tensor) -> Tensor:
    if len(rows) < len(_ORDER):
        return rows  # not a box branch's, which strict loading says
    sign = torch.tensor(_SIGN, dtype=rows.dtype).view(-1, *[1] * (rows.dim() - 1))
    return torch.cat([rows[_ORDER] * sign, rows[len(_ORDER) :]])
