"""The assignment against trying every assignment, its cost by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdbev.detectors.boxes.matching import match, matching_cost


def problem(seed, *, queries, objects):
    generator = torch.Generator().manual_seed(seed)
    return {
        "logits_KC": torch.randn(queries, 4, generator=generator),
        "code_K10": torch.randn(queries, 10, generator=generator),
        "labels_M": torch.randint(0, 4, (objects,), generator=generator),
        "targets_M10": torch.randn(objects, 10, generator=generator),
    }


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_no_assignment_is_cheaper(seed, objects):
    each = problem(seed, queries=5, objects=objects)
    logits, code = each.pop("logits_KC"), each.pop("code_K10")
    cost = matching_cost(logits, code, **each)
    queries, chosen = match(logits, code, **each)
    best = min(
        sum(float(cost[query, target]) for target, query in enumerate(order))
        for order in itertools.permutations(range(5), objects)
    )
    assert sorted(chosen.tolist()) == list(range(objects))
    assert float(cost[queries, chosen].sum()) == pytest.approx(best, abs=1e-5)


def test_cost_by_hand():
    # probability 0.5: foreground .25 * .25 * ln 2, background .75 * .25 * ln 2; difference -.125 ln 2, times 2
    code, target = torch.zeros(1, 10), torch.zeros(1, 10)
    target[0, 0], target[0, 9] = 3.0, 100.0  # the velocity does not count
    cost = matching_cost(torch.zeros(1, 2), code, labels_M=torch.tensor([1]), targets_M10=target)
    assert float(cost) == pytest.approx(-0.25 * math.log(2) + 0.25 * 3.0, abs=1e-6)


def test_more_objects_than_queries():
    each = problem(0, queries=2, objects=3)
    queries, chosen = match(each.pop("logits_KC"), each.pop("code_K10"), **each)
    assert queries.tolist() == [0, 1]
    assert len(set(chosen.tolist())) == 2


def test_no_object_matches_nothing():
    each = problem(0, queries=3, objects=0)
    queries, chosen = match(each.pop("logits_KC"), each.pop("code_K10"), **each)
    assert len(queries) == len(chosen) == 0


def test_a_missing_velocity_is_no_obstacle_but_a_broken_size_is():
    each = problem(0, queries=3, objects=2)
    each["targets_M10"][0, 8:] = math.nan
    logits, code = each.pop("logits_KC"), each.pop("code_K10")
    assert len(match(logits, code, **each)[0]) == 2
    each["targets_M10"][0, 2] = -math.inf
    with pytest.raises(ValueError, match="not finite"):
        match(logits, code, **each)
