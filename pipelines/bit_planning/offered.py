"""The bits that a target executes, layer by layer: what a plan for it may choose from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import nn

from profiles import Profile
from qdbev.export.targets.legal import stride_of
from qdbev.export.targets.rules import layer_of, rule_for
from qdbev.quantization import Plan
from qdbev.quantization.planning.output_channels import outputs_first, turned_groups


class Offer(NamedTuple):
    """Bits of the weights and of the inputs of one layer."""

    weights: tuple[int, ...]
    inputs: tuple[int, ...]


def offered_bits(model: nn.Module, plan: Plan, *, profile: Profile) -> Mapping[str, Offer]:
    """What the target of a profile's plan executes of its candidates, for each quantized layer.

    Args:
        model: The float model.
        plan: Its layers.
        profile: Its section ``bit_plan`` names target and candidates; without a target nothing is returned.

    Raises:
        ValueError: No candidate is executed.
    """
    section, modules = profile.bit_plan, dict(model.named_modules())
    if section.target is None:
        return {}
    offers = {}
    for site in plan.quantized:
        module = modules[site.path]
        weight = getattr(module, "in_proj_weight", None)
        weight = module.weight if weight is None else weight
        rows = outputs_first(weight, turned=turned_groups(module))  # type: ignore[arg-type]
        layer = layer_of(site.kind, rows.shape, stride=stride_of(module))
        rule = rule_for(layer, target=section.target)
        weights, inputs = (
            tuple(bits for bits in executed if bits in section.candidates) for executed in (rule.weights, rule.inputs)
        )
        if not weights or not inputs:
            wanted = rule.weights if not weights else rule.inputs
            raise ValueError(
                f"{section.target} executes {_listed(wanted)} bits of {site.path}, and candidates are "
                f"{_listed(section.candidates)}: give --candidates others"
            )
        offers[site.path] = Offer(weights, inputs)
    return offers


def _listed(bits: tuple[int, ...]) -> str:
    return ", ".join(map(str, bits))
