"""Ground truth of a whole batch in one list, and the small dense head that auxiliary losses stand on.

Shapes: O objects of the whole batch, C channels, H W of a map.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

HEAT_LOGIT = -2.19  # sigmoid of it is 0.1
MIN_SIGMA_CELLS = 0.7


@dataclass(frozen=True)
class Objects:
    """Ground truth of the whole batch: boxes (O, 9) as in mmdet3d, labels, and the sample of each."""

    boxes_O9: Tensor
    labels_O: Tensor
    sample_O: Tensor

    @property
    def centres_O3(self) -> Tensor:
        """Gravity centres [m]."""
        return torch.cat([self.boxes_O9[:, :2], self.boxes_O9[:, 2:3] + self.boxes_O9[:, 5:6] / 2], -1)


def gather_objects(boxes: list[Tensor], labels: list[Tensor]) -> Objects:
    """One list from the boxes and labels of each sample."""
    sample = [torch.full_like(labels_M, index) for index, labels_M in enumerate(labels)]
    return Objects(torch.cat(boxes).float(), torch.cat(labels), torch.cat(sample))


def dense_head(*, channels: int, outputs: int, classes: int) -> nn.Sequential:
    """3x3, ReLU, 1x1; the first ``classes`` outputs start at a probability of 0.1."""
    head = nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(channels, outputs, 1)
    )
    bias = head[-1].bias
    assert isinstance(bias, Tensor)
    with torch.no_grad():
        bias[:classes] = HEAT_LOGIT
    return head


def mean_squared(predicted_O: Tensor, target_O: Tensor) -> Tensor:
    """Sum of squares per object, averaged over the objects with a finite target; zero, with a gradient, without any."""
    finite = target_O.isfinite().all(-1)
    return (predicted_O[finite] - target_O[finite]).square().sum() / finite.sum().clamp(min=1)
