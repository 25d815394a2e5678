"""Options and costs of every layer: what a bit plan is chosen from, and what a choice says.

Costs follow the rules of the report: nominal size with everything but the layers' weights at the profile's bits, and
bit operations by Eq. 7 with layers in float at 32 x 32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.candidates import Choice, Losses, Tensors
from profiles import Profile
from qdbev.quantization import FLOAT_BITS, MacLine, Option, Plan, Problem, total_loss

Chosen = Mapping[str, Option]


def make_problem(
    plan: Plan,
    *,
    losses: Losses,
    weights: Mapping[str, int],
    macs: Sequence[MacLine],
    trainable: int,
    profile: Profile,
) -> Problem:
    """Options of every quantized layer, with their costs by the rules of the report.

    Args:
        plan: The uniform plan.
        losses: Of weights, and of inputs where those are chosen.
        weights: Per layer.
        macs: Per layer.
        trainable: Trainable parameters of the float detector; what is no weight of a layer counts the profile's bits.
        profile: Its candidates, budgets and bits.
    """
    section, candidates = profile.quantization, profile.bit_plan.candidates
    products = {line.path: line.macs for line in macs if line.is_layer}
    options = {}
    for site in plan.quantized:
        free = "inputs" in measured_tensors(profile) and site.kind != "embedding" and site.activation_bits < FLOAT_BITS
        options[site.path] = [
            Option(
                weight_bits=w,
                activation_bits=a,
                loss=losses[Choice(site.path, "weights", w)] + losses.get(Choice(site.path, "inputs", a), 0.0),
                size=w * weights[site.path],
                bops=w * a * products.get(site.path, 0),
            )
            for w in candidates
            for a in (candidates if free else (site.activation_bits,))
        ]
    in_float = sum(count for path, count in products.items() if path not in options)
    return Problem(
        options=options,
        fixed={
            "size": (trainable - sum(weights.values())) * section.weight_bits,
            "bops": in_float * FLOAT_BITS**2,
        },
        whole={"size": trainable * FLOAT_BITS, "bops": sum(products.values()) * FLOAT_BITS**2},
    )


def measured_tensors(profile: Profile) -> tuple[Tensors, ...]:
    """Inputs are chosen only where something limits them, and where their loss can be measured."""
    section = profile.bit_plan
    limited = section.bops is not None and section.criterion == "output"
    return ("weights", "inputs") if limited and profile.quantization.activation_bits < FLOAT_BITS else ("weights",)


def point(problem: Problem, chosen: Chosen) -> dict[str, Any]:
    """What a choice is predicted to lose, and its share of the float model's costs."""
    share = {name: problem.share(chosen, resource=name) for name in problem.whole}
    return {"predicted_loss": total_loss(chosen), "share": share}


def uniform_points(problem: Problem, *, activation_bits: int) -> dict[str, Any]:
    """The same numbers for plans that give every layer the same bits, by label."""
    found = {}
    for bits in sorted({option.weight_bits for each in problem.options.values() for option in each}):
        wanted = (activation_bits, FLOAT_BITS)  # embedding tables have no inputs
        same = {
            path: [one for one in each if one.weight_bits == bits and one.activation_bits in wanted]
            for path, each in problem.options.items()
        }
        if all(same.values()):
            found[f"W{bits}A{activation_bits}"] = point(problem, {path: each[0] for path, each in same.items()})
    return found


def layer_rows(plan: Plan, *, chosen: Chosen, macs: Sequence[MacLine]) -> list[dict[str, Any]]:
    """What a plan says of each layer, in the model's order."""
    products = {line.path: line.macs for line in macs if line.is_layer}
    rows = []
    for site in plan.quantized:
        option = chosen[site.path]
        bits = {"weight_bits": option.weight_bits, "activation_bits": option.activation_bits}
        costs = {"weights": option.size // option.weight_bits, "macs": products.get(site.path, 0)}
        rows.append({"path": site.path, "part": site.part, **bits, **costs, "loss": option.loss})
    return rows
