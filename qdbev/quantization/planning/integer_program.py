"""The integer program behind a bit plan, in the form that HiGHS takes (``scipy.optimize.milp``)."""

from __future__ import annotations

import ctypes
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

_LOSS_SCALE, _COST_SCALE = 1e4, 1e3  # far above the solver's tolerances, which are absolute
_OPTIMAL, _INFEASIBLE = 0, 2
_STDOUT = 1


def take_one_each(
    losses: Sequence[float], *, owners: Sequence[str], costs: Mapping[str, Sequence[int]], limits: Mapping[str, int]
) -> list[bool] | None:
    """Take one of the options of each owner, so that the sum of losses is least and no sum of costs exceeds its limit.

    Args:
        losses: One per option, finite.
        owners: Whose each option is.
        costs: Name -> one per option.
        limits: Name -> largest sum of costs; names without one are free.

    Returns:
        Which options are taken, or None where nothing keeps the limits.

    Raises:
        ValueError: a loss that is not finite, or the solver gave up.

    >>> take_one_each([9, 1, 5, 0], owners=["a", "a", "b", "b"], costs={"size": [2, 4, 2, 4]}, limits={"size": 6})
    [False, True, True, False]
    """
    names = list(dict.fromkeys(owners))
    owner = np.array([names.index(name) for name in owners])
    rules = [LinearConstraint((np.arange(len(names))[:, None] == owner).astype(float), 1, 1)]
    for name, limit in limits.items():
        row = np.array(costs[name], dtype=float)
        scale = _COST_SCALE / max(row.max(), 1.0)
        rules.append(LinearConstraint(row[None] * scale, -np.inf, limit * scale))
    objective = _scaled(losses, owner=owner)
    while (taken := _solved(objective, rules=rules)) is not None:
        sums = {name: sum(itertools.compress(costs[name], taken)) for name in limits}
        if all(sums[name] <= limit for name, limit in limits.items()):
            return [bool(is_taken) for is_taken in taken]
        # over by less than the solver's tolerance: exclude just this choice
        rules.append(LinearConstraint(taken[None].astype(float), -np.inf, len(names) - 1))
    return None


def _solved(objective: np.ndarray, *, rules: Sequence[LinearConstraint]) -> np.ndarray | None:
    with _silenced():
        solution = milp(
            objective,
            integrality=np.ones(len(objective)),
            bounds=Bounds(0, 1),
            constraints=list(rules),
            options={"mip_rel_gap": 0.0},
        )
    if solution.status == _INFEASIBLE:
        return None
    if solution.status != _OPTIMAL:
        raise ValueError(f"the program of the bit plan was not solved: {solution.message}")
    return np.asarray(solution.x) > 0.5


def _scaled(losses: Sequence[float], *, owner: np.ndarray) -> np.ndarray:
    """Losses above each owner's least one, in a range that suits the solver."""
    values = np.array(losses, dtype=float)
    if not np.isfinite(values).all():
        raise ValueError("the loss of an option is not finite; a plan needs a finite loss for every choice")
    above = values - np.array([values[owner == number].min() for number in owner])
    return above * (_LOSS_SCALE / above.sum()) if above.sum() > 0 else above


@contextmanager
def _silenced() -> Iterator[None]:
    """Drop what the solver's C++ prints on stdout, now and then, whatever it is told: results alone belong there."""
    stdout, nothing = os.dup(_STDOUT), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, _STDOUT)
    try:
        yield
    finally:
        ctypes.CDLL(None).fflush(None)
        os.dup2(stdout, _STDOUT)
        os.close(stdout)
        os.close(nothing)
