"""Batches by number: a batch depends on its number alone, whatever was read before it and by whom."""

from __future__ import annotations

import random
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdbev.engine.batches import ShuffledBatches


class _Noisy:
    """Items of index and three random draws, as an augmentation makes them."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return index, random.random(), float(np.random.rand()), float(torch.rand(()))


def _shuffled(length=7, *, batch_size=3, seed=0, shuffle=True, workers=0):
    return ShuffledBatches(
        _Noisy(length), batch_size=batch_size, seed=seed, collate=list, shuffle=shuffle, workers=workers
    )


def _first(batches, number, *, start=0, stride=1):
    return list(islice(iter(batches(start, stride=stride)), number))


def test_every_sample_comes_once_an_epoch_and_in_another_order():
    indices = [item[0] for batch in _first(_shuffled(), 7) for item in batch]  # 21 items: three epochs
    epochs = [indices[:7], indices[7:14], indices[14:]]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_order_is_kept_without_shuffling():
    assert [item[0] for batch in _first(_shuffled(shuffle=False), 4) for item in batch] == [*range(7), *range(5)]


@settings(max_examples=20)
@given(start=st.integers(0, 30), stride=st.integers(1, 4), length=st.integers(1, 9), batch_size=st.integers(1, 5))
def test_any_start_and_stride_gives_the_same_batches(start, stride, length, batch_size):
    batches = _shuffled(length, batch_size=batch_size)
    whole = _first(batches, start + 2 * stride + 1)
    assert _first(batches, 3, start=start, stride=stride) == whole[start::stride]


def test_workers_change_nothing():
    assert _first(_shuffled(workers=2), 6, start=1) == _first(_shuffled(), 6, start=1)


def test_seed_changes_order_and_augmentation():
    one, other = (_first(_shuffled(seed=seed), 2) for seed in (0, 1))
    assert [item[0] for item in one[0]] != [item[0] for item in other[0]]
    assert {item[1] for batch in one for item in batch}.isdisjoint(item[1] for batch in other for item in batch)


@pytest.mark.parametrize(("length", "batch_size"), [(0, 1), (3, 0)])
def test_refuses(length, batch_size):
    with pytest.raises(ValueError, match="expected at least one of each"):
        _shuffled(length, batch_size=batch_size)
