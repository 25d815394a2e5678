"""What an image gives before it is laid onto the ground: depth probabilities and features of every pixel.

Shapes: E images (samples times cameras), D depths, P pixels, C channels, H W of the ground's map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qdbev.detectors.lift.frustum import VoxelGrid
from qdbev.ops.frustum_pooling import pool_frustum


@dataclass(frozen=True)
class Lifted:
    """One frame of some samples.

    Attributes:
        depth_EDP: Probability of each depth.
        context_EPC: Features.
    """

    depth_EDP: Tensor
    context_EPC: Tensor

    def of(self, sample: int, *, cameras: int) -> Lifted:
        """That of one sample, without a gradient, in memory of its own."""
        images = slice(sample * cameras, (sample + 1) * cameras)
        return Lifted(self.depth_EDP[images].detach().clone(), self.context_EPC[images].detach().clone())

    @classmethod
    def together(cls, samples: Sequence[Lifted]) -> Lifted:
        """Those of several samples as one."""
        return cls(
            torch.cat([sample.depth_EDP for sample in samples]), torch.cat([sample.context_EPC for sample in samples])
        )


def depth_probabilities(depth_EDHW: Tensor) -> Tensor:
    """(E, D, P) probability of each depth from its logit, in float32 at least.

    A CPU's autocast would leave it in bf16, where one is the nearest to all above 0.998. Such a pixel's gradient of the
    loss of depths would drown all others.
    """
    return depth_EDHW.to(torch.promote_types(depth_EDHW.dtype, torch.float32)).softmax(1).flatten(2)


def pooled(lifted: Lifted, *, cells_BNDP: Tensor, grid: VoxelGrid) -> Tensor:
    """The map (B, C, H, W) of what lies in every cell, summed."""
    samples = len(cells_BNDP)
    sums = pool_frustum(
        lifted.depth_EDP, lifted.context_EPC, cells_EDP=cells_BNDP.flatten(0, 1), cells=samples * grid.cells
    )
    return sums.view(samples, grid.rows, grid.columns, -1).permute(0, 3, 1, 2)
