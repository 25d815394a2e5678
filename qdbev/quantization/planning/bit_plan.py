"""A bit plan: the bits of every layer chosen together, so that a predicted loss is least under budgets.

As HAWQ-V3 does (Yao et al., ICML 2021): one option per layer, losses and costs add up, an integer linear
program. It is solved to the optimum by HiGHS (``scipy.optimize.milp``), a multiple-choice knapsack:

    min  sum_i sum_o loss_io x_io      s.t.  sum_o x_io = 1,   fixed + sum_i sum_o cost_io x_io <= share * whole
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from operator import le
from typing import Literal, get_args

from qdbev.quantization.planning.integer_program import take_one_each
from qdbev.quantization.planning.plan import FLOAT_BITS, Plan

Resource = Literal["size", "bops", "bytes", "latency"]
RESOURCES: tuple[Resource, ...] = get_args(Resource)
Budgets = Mapping[Resource, float | Fraction]


@dataclass(frozen=True, kw_only=True)
class Option:
    """One choice of bits for one layer.

    Attributes:
        weight_bits: width of the weights.
        activation_bits: width of the inputs.
        loss: what it is predicted to cost in accuracy; losses of layers add up.
        size: bits of memory for the weights.
        bops: bit operations in one inference (Eq. 7).
        bytes: bytes of the packed weights.
        latency: measured nanoseconds.
    """

    weight_bits: int
    activation_bits: int
    loss: float
    size: int
    bops: int
    bytes: int = 0
    latency: int = 0

    def cost(self, resource: Resource) -> int:
        """What it takes of a resource."""
        return int(getattr(self, resource))


BitPlan = dict[str, Option]
"""What the integer program chose: one option per layer, by the path of its site."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What there is to choose from.

    Attributes:
        options: at least one per layer, by the path of its site.
        fixed: what the model costs besides, whatever is chosen; resources that are not counted are left out.
        whole: the cost of the float model: budgets are shares of it.
    """

    options: Mapping[str, Sequence[Option]]
    fixed: Mapping[Resource, int]
    whole: Mapping[Resource, int]

    def cost(self, chosen: Mapping[str, Option], *, resource: Resource) -> int:
        """What the model costs with a choice."""
        return self._cost(chosen.values(), resource)

    def share(self, chosen: Mapping[str, Option], *, resource: Resource) -> float:
        """The cost of a choice as a share of the float model's."""
        return self._cost(chosen.values(), resource) / self.whole[resource]

    def smallest_cost(self, resource: Resource) -> int:
        """The least cost that any choice reaches."""
        least = (min(of_layer, key=lambda option: option.cost(resource)) for of_layer in self.options.values())
        return self._cost(least, resource)

    def smallest_share(self, resource: Resource) -> float:
        """The least share that any choice reaches."""
        return self.smallest_cost(resource) / self.whole[resource]

    def largest_share(self, resource: Resource) -> float:
        """The share of the costliest choice."""
        most = (max(of_layer, key=lambda option: option.cost(resource)) for of_layer in self.options.values())
        return self._cost(most, resource) / self.whole[resource]

    def _cost(self, chosen: Iterable[Option], resource: Resource) -> int:
        return self.fixed[resource] + sum(option.cost(resource) for option in chosen)


def total_loss(chosen: Mapping[str, Option]) -> float:
    """The predicted loss of a choice."""
    return float(sum(option.loss for option in chosen.values()))


def choose_bits(problem: Problem, *, budgets: Budgets) -> BitPlan:
    """Choose one option per layer, so that the sum of losses is least and every budget is kept.

    Args:
        problem: Options and costs.
        budgets: Resource -> share of the float model's cost that may be used; none leaves it free. A fraction is exact:
            an amount over the float model's cost.

    Returns:
        An optimum; the same one at every call.

    Raises:
        ValueError: no choice keeps the budgets; the sentence says what is the smallest reachable share.

    >>> at = lambda bits, loss: Option(weight_bits=bits, activation_bits=8, loss=loss, size=10 * bits, bops=0)
    >>> problem = Problem(
    ...     options={"a": [at(2, 9.0), at(4, 1.0)], "b": [at(2, 5.0), at(4, 0.5)]},
    ...     fixed={"size": 0, "bops": 0}, whole={"size": 640, "bops": 1})
    >>> {path: option.weight_bits for path, option in choose_bits(problem, budgets={"size": 0.1}).items()}
    {'a': 4, 'b': 2}
    """
    _refuse_unreachable(problem, budgets=budgets)
    chosen = _best(problem, budgets=budgets)
    if chosen is None:
        stated = " and ".join(_stated(problem, name, share) for name, share in budgets.items())
        raise ValueError(f"no choice of bits keeps {stated} together; raise one of them")
    return chosen


def front(problem: Problem, *, over: Resource, budgets: Budgets, points: int = 25) -> list[BitPlan]:
    """The Pareto front: the best choices for budgets of one resource, from the smallest reachable to the largest.

    Args:
        problem: Options and costs.
        over: The resource that varies.
        budgets: Those of other resources hold.
        points: How many budgets, evenly spaced.

    Returns:
        Choices of rising cost and falling loss, without repetitions.
    """
    others = {name: share for name, share in budgets.items() if name != over}
    low, high = problem.smallest_share(over), problem.largest_share(over)
    steps = [{over: low + (high - low) * step / points} for step in range(1, points)]
    plans: list[BitPlan] = []
    for limit in [*steps, {}]:
        chosen = _best(problem, budgets={**others, **limit})
        if chosen is not None and (not plans or total_loss(chosen) < total_loss(plans[-1])):
            plans.append(chosen)
    return plans


def with_bits(plan: Plan, bits: Mapping[str, tuple[int, int]]) -> Plan:
    """A plan with the bits of its quantized sites replaced.

    Args:
        plan: A plan of some model.
        bits: Path of each quantized site -> bits of weights and of inputs (embedding tables have no inputs).

    Raises:
        ValueError: a site without bits, or bits for what is no quantized site: they were chosen for another model.
    """
    paths = [site.path for site in plan.quantized]
    strangers = [*(path for path in paths if path not in bits), *(path for path in bits if path not in set(paths))]
    if strangers:
        verb = "has no bits for" if strangers[0] not in bits else "gives bits to"
        where = "which this model quantizes" if strangers[0] not in bits else "which is no quantized layer here"
        raise ValueError(
            f"the bit plan {verb} {strangers[0]}, {where} ({len(strangers)} such layers): it was made for another model"
        )
    sites = []
    for site in plan:
        if site.quantized:
            weight, activation = bits[site.path]
            activation = FLOAT_BITS if site.kind == "embedding" else activation
            site = replace(site, weight_bits=weight, activation_bits=activation)
        sites.append(site)
    return replace(plan, sites=tuple(sites))


def _best(problem: Problem, *, budgets: Budgets) -> BitPlan | None:
    """An optimum, or None where nothing keeps the budgets."""
    options = [(path, option) for path, of_layer in problem.options.items() for option in _undominated(of_layer)]
    taken = take_one_each(
        [option.loss for _, option in options],
        owners=[path for path, _ in options],
        costs={name: [option.cost(name) for _, option in options] for name in budgets},
        limits={name: _limit(problem, name, share) - problem.fixed[name] for name, share in budgets.items()},
    )
    if taken is None:
        return None
    return {path: option for (path, option), is_taken in zip(options, taken, strict=True) if is_taken}


def _limit(problem: Problem, name: Resource, share: float | Fraction) -> int:
    """What the model may cost; a float is meant as the decimal number it is written as."""
    return int(Fraction(str(share)) * problem.whole[name])


def _refuse_unreachable(problem: Problem, *, budgets: Budgets) -> None:
    for name, share in budgets.items():
        least = problem.smallest_cost(name)
        if least <= _limit(problem, name, share):
            continue
        smallest = least / problem.whole[name]
        takes = f"{smallest:.4f} of the float one; give {_rounded_up(smallest):.4f}"
        if name == "bytes":
            takes = f"{least}; give that"
        raise ValueError(
            f"a budget of {_stated(problem, name, share)} cannot be kept: with the fewest bits everywhere this model "
            f"takes {takes} or more, or smaller candidates"
        )


def _stated(problem: Problem, name: Resource, share: float | Fraction) -> str:
    """A budget as its user writes it: bytes as a number, the others as shares."""
    return f"bytes={_limit(problem, name, share)}" if name == "bytes" else f"{name}={float(share):g}"


def _rounded_up(share: float) -> float:
    return math.ceil(share * 1e4) / 1e4


def _undominated(options: Sequence[Option]) -> list[Option]:
    """Options to which no other is as good in loss and all costs; of equals the first."""
    undominated: list[Option] = []
    for option in sorted(options, key=lambda option: (option.loss, *_costs(option))):
        if not any(all(map(le, _costs(better), _costs(option))) for better in undominated):
            undominated.append(option)
    return undominated


def _costs(option: Option) -> tuple[int, ...]:
    return tuple(option.cost(name) for name in RESOURCES)
