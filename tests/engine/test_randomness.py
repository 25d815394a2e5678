"""Seeding: one call fixes all three generators, and agrees with torch's own seeding."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from qdbev.engine.randomness import seed_everything, seed_for


def _draws():
    return random.random(), float(np.random.rand()), torch.rand(3).tolist()


def test_same_numbers_same_draws_and_other_numbers_others():
    seed_everything(3, 5)
    one = _draws()
    _draws()
    seed_everything(3, 5)
    assert _draws() == one
    seed_everything(3, 6)
    other = _draws()
    assert other[0] != one[0] and other[1] != one[1] and other[2] != one[2]


def test_torch_is_seeded_as_by_its_own_function():
    seed_everything(3, 5)
    ours = torch.rand(3)
    torch.manual_seed(seed_for(3, 5))
    assert torch.equal(ours, torch.rand(3))


def test_neighbours_do_not_collide():
    assert len({seed_for(seed, number) for seed in range(50) for number in range(50)}) == 2500


def test_refuses_negative_seeds():
    with pytest.raises(ValueError, match="non-negative"):
        seed_everything(-1)
