"""Live bytes by hand, on the meta device as on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qdbev.quantization.planning.activation_memory import activation_memory


def floats(count: int) -> int:
    return 4 * count


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_backward_pass_waits_for_what_it_needs(device: str) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).to(device)

    def forward() -> torch.Tensor:
        result: torch.Tensor = model(torch.ones(1, 4, device=device))
        return result

    # input 4, hidden 8, rectified 8 at once; then the hidden ones go, for a ReLU needs only what it gave
    trained = activation_memory(model, forward)
    assert (trained.peak_bytes, trained.kept_bytes) == (floats(4 + 8 + 8), floats(4 + 8 + 2))
    with torch.no_grad():
        run = activation_memory(model, forward)
    assert (run.peak_bytes, run.kept_bytes) == (floats(4 + 8 + 8), floats(2))


def test_views_and_changes_in_place_take_nothing() -> None:
    def forward() -> torch.Tensor:
        x = torch.ones(6)
        return x.view(2, 3).t().add_(1)

    taken = activation_memory(nn.Identity(), forward)
    assert (taken.peak_bytes, taken.kept_bytes) == (floats(6), floats(6))


def test_parameters_and_views_of_them_are_not_counted() -> None:
    layer = nn.Linear(4, 8)
    with torch.no_grad():
        assert activation_memory(layer, lambda: layer.weight.t()).peak_bytes == 0
