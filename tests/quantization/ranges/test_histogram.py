"""The growing histogram: counts by hand, and independence of how the values were cut."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdbev.quantization.ranges.histogram import GrowingHistogram

# no subnormals: whether they count as zero depends on the processor's mode, which other libraries set
VALUES = st.lists(
    st.one_of(st.floats(-1e3, 1e3, width=32, allow_subnormal=False), st.just(0.0)), min_size=0, max_size=20
)


def test_counts_by_hand() -> None:
    histogram = GrowingHistogram(bins=4)
    histogram.update(torch.tensor([[0.0, 0.3, 0.9, -0.1, -0.9]]))  # range [-1, 1), bins of 0.25
    assert histogram.bin_width.tolist() == [0.25]
    assert histogram.counts.tolist() == [[1, 0, 0, 1, 1, 1, 0, 1]]
    histogram.update(torch.tensor([[1.5]]))  # range [-2, 2), bins of 0.5: pairs merge
    assert histogram.counts.tolist() == [[0, 0, 1, 1, 2, 1, 0, 1]]
    assert histogram.largest.tolist() == [1.5]
    assert histogram.magnitudes.tolist() == [[3, 2, 0, 1]]


@settings(max_examples=60)
@given(batches=st.lists(VALUES, min_size=1, max_size=5), shuffle=st.randoms())
def test_cutting_and_order_do_not_matter(batches: list[list[float]], shuffle: object) -> None:
    whole, parts = GrowingHistogram(bins=8), GrowingHistogram(bins=8)
    everything = list(chain.from_iterable(batches))
    whole.update(torch.tensor([everything], dtype=torch.float32))
    shuffle.shuffle(batches)  # type: ignore[attr-defined]
    for batch in batches:
        parts.update(torch.tensor([batch], dtype=torch.float32).reshape(1, -1))
    assert torch.equal(whole.counts, parts.counts) or not everything
    assert torch.equal(whole.largest, parts.largest) or not everything


@given(values=st.lists(st.floats(-50, 50, width=32, allow_subnormal=False), min_size=1, max_size=50))
def test_counts_equal_numpy(values: list[float]) -> None:
    histogram = GrowingHistogram(bins=16)
    histogram.update(torch.tensor([values], dtype=torch.float32))
    edge = float(histogram.bin_width) * 16
    expected, _ = np.histogram(np.float32(values), bins=np.linspace(-edge, edge, 33))
    assert histogram.counts[0].tolist() == expected.tolist() and int(histogram.counts.sum()) == len(values)


def test_rows_grow_on_their_own() -> None:
    rows = torch.tensor([[0.5, -0.25], [100.0, 1.0], [0.0, 0.0]])
    histogram = GrowingHistogram(bins=8)
    histogram.update(rows[:, :1])
    histogram.update(rows[:, 1:])
    for row, values in enumerate(rows):
        alone = GrowingHistogram(bins=8)
        alone.update(values[None])
        assert torch.equal(histogram.counts[row], alone.counts[0])


def test_large_updates_are_cut_into_chunks_without_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0))
    whole, chunked = GrowingHistogram(bins=32), GrowingHistogram(bins=32)
    whole.update(x)
    monkeypatch.setattr("qdbev.quantization.ranges.histogram._CHUNK", 64)
    chunked.update(x)
    assert torch.equal(whole.counts, chunked.counts)


def test_a_million_values_are_counted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cuts = list[int]()
    monkeypatch.setattr(GrowingHistogram, "_count", lambda _, rows: cuts.append(rows.shape[1]))
    for rows in (1, 64):
        GrowingHistogram(bins=4).update(torch.ones(rows, (3 << 19) // rows))
    assert cuts == [1 << 20, 1 << 19, 1 << 14, 1 << 13]


@pytest.mark.parametrize("bins", [0, 1, 3, 100])
def test_bins_must_be_a_power_of_two(bins: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        GrowingHistogram(bins=bins)


def test_another_number_of_rows_is_refused() -> None:
    histogram = GrowingHistogram(bins=8)
    histogram.update(torch.ones(2, 3))
    with pytest.raises(ValueError, match="2 rows, got values with 3"):
        histogram.update(torch.ones(3, 3))
