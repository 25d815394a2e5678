"""Min-max and moving average against independent formulas, and what every observer refuses."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qdbev.quantization.ranges.bounds_observers import make_bounds_observer
from qdbev.quantization.ranges.observer_kinds import make_observer
from qdbev.quantization.ranges.observers import MinMaxObserver, MovingAverageObserver, Observer, largest_magnitude

KINDS = ["minmax", "moving_average", "percentile", "mse", "entropy"]
BATCHES = st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3), min_size=1, max_size=6)


@given(batches=BATCHES)
def test_minmax_is_the_largest_magnitude(batches: list[list[float]]) -> None:
    per_tensor, per_channel = MinMaxObserver(), MinMaxObserver(axis=1)
    for batch in batches:
        per_tensor.update(torch.tensor(batch))
        per_channel.update(torch.tensor([batch]))
    assert per_tensor.range().item() == np.abs(np.float32(batches)).max()
    assert per_channel.range().tolist() == np.abs(np.float32(batches)).max(0).tolist()


@given(batches=BATCHES, momentum=st.integers(0, 126).map(lambda part: part / 128))  # 1 - m is exact in float32
def test_moving_average_is_the_recursion(batches: list[list[float]], momentum: float) -> None:
    observer = MovingAverageObserver(momentum=momentum)
    expected = None
    for batch in batches:
        observer.update(torch.tensor(batch))
        largest = max(abs(value) for value in batch)
        expected = largest if expected is None else momentum * expected + (1 - momentum) * largest
    assert observer.range().item() == pytest.approx(expected, rel=1e-4, abs=1e-30)


def test_moving_average_by_hand_depends_on_the_order() -> None:
    forward, backward = MovingAverageObserver(momentum=0.5), MovingAverageObserver(momentum=0.5)
    for value in (1.0, 3.0, 5.0):
        forward.update(torch.tensor([value]))
    for value in (5.0, 3.0, 1.0):
        backward.update(torch.tensor([value]))
    assert forward.range().item() == 3.5 and backward.range().item() == 2.5


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_largest_magnitude_per_channel(axis: int) -> None:
    x = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1))
    others = tuple(other for other in range(3) if other != axis % 3)
    assert torch.equal(largest_magnitude(x, axis=axis), x.abs().amax(others))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_seen_is_no_range(kind: str) -> None:
    observer = make_observer(kind, bits=4)
    observer.update(torch.zeros(0, 4))
    with pytest.raises(ValueError, match="saw no values"):
        observer.range()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(kind: str, bad: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        make_observer(kind, bits=4).update(torch.tensor([1.0, bad]))


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_have_a_range_of_zero(kind: str) -> None:
    observer = make_observer(kind, bits=4)
    observer.update(torch.zeros(10))
    assert observer.range().item() == 0.0


@pytest.mark.parametrize("kind", ["minmax", "moving_average", "percentile", "mse"])
def test_per_channel_is_each_channel_alone(kind: str) -> None:
    x = torch.randn(4, 200, generator=torch.Generator().manual_seed(2)) * torch.tensor([[0.1], [1.0], [7.0], [0.0]])
    together = make_observer(kind, bits=4, axis=0, percentile=95.0)
    together.update(x)
    for channel in range(4):
        alone = make_observer(kind, bits=4, axis=0, percentile=95.0)
        alone.update(x[channel : channel + 1])
        assert together.range()[channel] == alone.range()[0]


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="minmax, moving_average, percentile, mse, entropy"):
        make_observer("median", bits=4)


def test_a_momentum_of_one_would_never_move() -> None:
    with pytest.raises(ValueError, match="below 1"):
        MovingAverageObserver(momentum=1.0)


@pytest.mark.parametrize(
    "make",
    [
        *(partial(make_observer, kind, bits=4) for kind in KINDS),
        partial(make_observer, "mse", bits=4, axis=1),
        *(partial(make_bounds_observer, kind, bits=4) for kind in ("minmax", "mse")),
    ],
)
def test_what_takes_up_what_another_saw_goes_on_alike(make: Callable[[], Observer]) -> None:
    first, second = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0))
    whole, stopped, resumed = make(), make(), make()
    whole.update(first)
    stopped.update(first)
    resumed.take_up(stopped.seen())
    for observer in (whole, resumed):
        observer.update(3 * second)
    assert torch.equal(whole.range(), resumed.range()) and resumed.updates == 2
    unseen = make()
    unseen.take_up(make().seen())
    with pytest.raises(ValueError, match="saw no values"):
        unseen.range()
