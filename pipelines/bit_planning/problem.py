"""Options and costs of every layer: what a bit plan is chosen from, and what a choice says.

Costs follow the rules of the report: nominal size with everything but the layers' weights at the profile's bits, and
bit operations by Eq. 7 with layers in float at 32 x 32. Bytes are those of the packed tensors, latencies a table's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from types import MappingProxyType
from typing import Any

from pipelines.bit_planning.candidates import Choice, Losses, Tensors
from pipelines.bit_planning.costs import Packed, timed_costs
from pipelines.bit_planning.latency_table import LatencyTable, Timed
from pipelines.bit_planning.offered import Offer
from profiles import Profile
from qdbev.quantization import FLOAT_BITS, MacLine, Option, Plan, Problem, total_loss
from qdbev.quantization.planning.bit_plan import BitPlan, Budgets, Resource


def make_problem(
    plan: Plan,
    *,
    losses: Losses,
    weights: Mapping[str, int],
    macs: Sequence[MacLine],
    trainable: int,
    profile: Profile,
    packed: Packed | None = None,
    times: LatencyTable | None = None,
    offers: Mapping[str, Offer] = MappingProxyType({}),
) -> Problem:
    """Options of every quantized layer, with their costs by the rules of the report.

    Args:
        plan: The uniform plan.
        losses: Of weights, and of inputs where those are chosen.
        weights: Per layer.
        macs: Per layer.
        trainable: Trainable parameters of the float detector; what is no weight of a layer counts the profile's bits.
        profile: Its candidates, budgets and bits.
        packed: Where bytes are limited.
        times: Where latency is limited.
        offers: Bits that a target executes, by layer; empty where there is no target.

    Raises:
        ValueError: The latencies lack an option, or are of another model.
    """
    section = profile.quantization
    products = {line.path: line.macs for line in macs if line.is_layer}
    pairs = bit_pairs(plan, profile=profile, offers=offers)
    timing = (
        None if times is None else timed_costs(times, pairs={path: pairs[path] for path in pairs if path in products})
    )
    options = {
        path: [
            Option(
                weight_bits=w,
                activation_bits=a,
                loss=losses[Choice(path, "weights", w)] + losses.get(Choice(path, "inputs", a), 0.0),
                size=w * weights[path],
                bops=w * a * products.get(path, 0),
                bytes=packed.of_layer(path, bits=w) if packed else 0,
                latency=timing.layers.get(Timed(path, w, a), 0) if timing else 0,
            )
            for w, a in of_layer
        ]
        for path, of_layer in pairs.items()
    }
    in_float = sum(count for path, count in products.items() if path not in options)
    fixed: dict[Resource, int] = {
        "size": (trainable - sum(weights.values())) * section.weight_bits,
        "bops": in_float * FLOAT_BITS**2,
    }
    whole: dict[Resource, int] = {"size": trainable * FLOAT_BITS, "bops": sum(products.values()) * FLOAT_BITS**2}
    if packed:
        fixed["bytes"], whole["bytes"] = packed.rest, packed.whole
    if timing:
        fixed["latency"], whole["latency"] = timing.rest, timing.whole
    return Problem(options=options, fixed=fixed, whole=whole)


def bit_pairs(
    plan: Plan, *, profile: Profile, offers: Mapping[str, Offer] = MappingProxyType({})
) -> dict[str, list[tuple[int, int]]]:
    """Bits of weights and inputs that each quantized layer may get, those that a target executes where there is one."""
    candidates, chosen = profile.bit_plan.candidates, "inputs" in measured_tensors(profile)
    pairs: dict[str, list[tuple[int, int]]] = {}
    for site in plan.quantized:
        offer = offers.get(site.path, Offer(candidates, candidates))
        has_inputs = site.kind != "embedding" and site.activation_bits < FLOAT_BITS
        inputs = offer.inputs if chosen and has_inputs else (site.activation_bits,)
        if has_inputs and offers and not set(inputs) <= set(offer.inputs):
            inputs = offer.inputs[-1:]
        pairs[site.path] = [(w, a) for w in offer.weights for a in inputs]
    return pairs


def budget_shares(problem: Problem, *, profile: Profile) -> Budgets:
    """The profile's budgets as shares of the float model's costs, exact ones of bytes."""
    return {
        name: Fraction(int(value), problem.whole[name]) if name == "bytes" else value
        for name, value in profile.bit_plan.budgets.items()
    }


def measured_tensors(profile: Profile) -> tuple[Tensors, ...]:
    """Inputs are chosen only where something limits them, and where their loss can be measured."""
    section = profile.bit_plan
    limited = (section.bops, section.latency) != (None, None) and section.criterion != "hessian"
    return ("weights", "inputs") if limited and profile.quantization.activation_bits < FLOAT_BITS else ("weights",)


def point(problem: Problem, chosen: BitPlan) -> dict[str, Any]:
    """What a choice is predicted to lose, its share of the float model's costs, and what has a unit."""
    share = {name: problem.share(chosen, resource=name) for name in problem.whole}
    units: dict[str, Any] = {}
    if "bytes" in problem.whole:
        units["packed_bytes"] = problem.cost(chosen, resource="bytes")
    if "latency" in problem.whole:
        units["milliseconds"] = problem.cost(chosen, resource="latency") / 1e6
    return {"predicted_loss": total_loss(chosen), "share": share, **units}


def uniform_points(problem: Problem, *, activation_bits: int) -> dict[str, Any]:
    """The same numbers for plans that give every layer the same bits, by label."""
    points = {}
    for bits in sorted({option.weight_bits for options in problem.options.values() for option in options}):
        wanted = (activation_bits, FLOAT_BITS)  # embedding tables have no inputs
        same = {
            path: [option for option in options if option.weight_bits == bits and option.activation_bits in wanted]
            for path, options in problem.options.items()
        }
        if all(same.values()):
            points[f"W{bits}A{activation_bits}"] = point(problem, {path: options[0] for path, options in same.items()})
    return points


def layer_rows(plan: Plan, *, chosen: BitPlan, macs: Sequence[MacLine]) -> list[dict[str, Any]]:
    """What a plan says of each layer, in the model's order."""
    products = {line.path: line.macs for line in macs if line.is_layer}
    rows = []
    for site in plan.quantized:
        option = chosen[site.path]
        bits = {"weight_bits": option.weight_bits, "activation_bits": option.activation_bits}
        costs = {"weights": option.size // option.weight_bits, "macs": products.get(site.path, 0)}
        rows.append({"path": site.path, "part": site.part, **bits, **costs, "loss": option.loss})
    return rows
