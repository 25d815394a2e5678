"""Both ends of values: by hand, against a search over all pairs of ends, and whatever the batches were."""

from __future__ import annotations

import pytest
import torch

from qdbev.quantization.grid.clipped_steps import fake_quantize_stepped
from qdbev.quantization.grid.integers import quantize_int
from qdbev.quantization.ranges.bounds_observers import (
    BoundsObserver,
    MseBoundsObserver,
    grid_of_bounds,
    make_bounds_observer,
)


def skewed(*, size: int = 4000, seed: int = 0) -> torch.Tensor:
    """Values between a dense -0.3 and a thin tail to the right, as behind a SiLU."""
    return torch.nn.functional.silu(torch.randn(size, generator=torch.Generator().manual_seed(seed)) * 2)


def error(x: torch.Tensor, low: torch.Tensor, high: torch.Tensor, *, bits: int) -> float:
    scale, offset = grid_of_bounds(low, high, bits=bits)
    return float((fake_quantize_stepped(x, scale=scale, offset=offset, bits=bits) - x).square().mean())


@pytest.mark.parametrize("narrow", [False, True])
def test_the_ends_are_the_first_and_the_last_integer(narrow: bool) -> None:
    low, high = torch.tensor(-0.5), torch.tensor(6.5)
    scale, offset = grid_of_bounds(low, high, bits=4, narrow_range=narrow)
    ends = quantize_int(torch.stack([low, high]), scale=scale, bits=4, offset=offset, narrow_range=narrow)
    assert ends.tolist() == [-7 if narrow else -8, 7]
    assert scale.item() == pytest.approx(7 / (14 if narrow else 15))


def test_one_value_alone_is_kept() -> None:
    value = torch.tensor(3.25)
    scale, offset = grid_of_bounds(value, value, bits=4)
    assert fake_quantize_stepped(value, scale=scale, offset=offset, bits=4).item() == 3.25


def test_minmax_is_what_was_seen() -> None:
    observer = BoundsObserver()
    for batch in (torch.tensor([1.0, 4.0]), torch.tensor([-0.5]), torch.zeros(0)):
        observer.update(batch)
    assert [end.item() for end in observer.bounds()] == [-0.5, 4.0] and observer.range().item() == 4.0


@pytest.mark.parametrize("bits", [2, 4, 6])
def test_mse_is_close_to_the_best_of_all_pairs_of_ends(bits: int) -> None:
    x = skewed()
    observer = MseBoundsObserver(bits=bits)
    observer.update(x)
    ours = error(x, *observer.bounds(), bits=bits)
    smallest, largest = x.min(), x.max()
    best = min(
        error(x, smallest * low / 20, largest * high / 40, bits=bits) for low in range(0, 21) for high in range(4, 41)
    )
    assert ours < 1.03 * best
    assert ours <= error(x, smallest, largest, bits=bits)


def test_mse_does_not_depend_on_how_values_were_cut() -> None:
    x, whole, pieces = skewed(), MseBoundsObserver(bits=4), MseBoundsObserver(bits=4)
    whole.update(x)
    for piece in x.flip(0).split(700):
        pieces.update(piece)
    assert whole.bounds() == pieces.bounds()


def test_before_anything_is_seen_there_are_no_ends() -> None:
    with pytest.raises(ValueError, match="saw no values"):
        make_bounds_observer("mse", bits=4).bounds()


def test_other_observers_know_no_ends() -> None:
    with pytest.raises(ValueError, match="one of minmax, mse, got 'entropy'"):
        make_bounds_observer("entropy", bits=4)
