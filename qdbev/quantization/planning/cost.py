"""What a model costs at a plan's bits: bit operations (QD-BEV, Eq. 7), mean bits and model size.

    BOPS = sum_i  b_w,i  b_a,i  MAC_i

A layer left in float counts 32 x 32. The paper's tables count layers (convolution, linear, projections) and no
attention products or sampling; those are separate lines here and enter the sum only where asked for. Its size is the
number of trainable parameters times the weight bits, without scales: see ``nominal_size_mb``.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from qdbev.quantization.planning.macs import MacLine
from qdbev.quantization.planning.plan import FLOAT_BITS, Plan
from qdbev.quantization.planning.sharing import memory_of


@dataclass(frozen=True)
class BitOperations:
    """Eq. 7 by part.

    Attributes:
        parts: part -> bit operations, in the plan's order.
    """

    parts: dict[str, int]

    @property
    def total(self) -> int:
        """Sum over the parts."""
        return sum(self.parts.values())


class MeanBits(NamedTuple):
    """Mean bits of a plan.

    Attributes:
        weights: over the weights.
        inputs: over the multiply-accumulates that read them.
    """

    weights: float
    inputs: float


def bops(
    plan: Plan,
    macs: Iterable[MacLine],
    *,
    active_parts: Iterable[str] | None = None,
    include_operations: bool = False,
) -> BitOperations:
    """Return Eq. 7 for a plan.

    Args:
        plan: Bits per site.
        macs: From ``count_macs`` on the model of the plan.
        active_parts: Parts that are quantized, others counting 32 x 32; None means all.
        include_operations: Count attention products and sampling too, at 32 x 32.

    Raises:
        ValueError: a layer that the plan does not know.
    """
    sites = {site.path: site for site in plan.sites}
    active = set(plan.parts if active_parts is None else active_parts)
    totals = dict.fromkeys(plan.parts, 0)
    for line in macs:
        if line.is_layer:
            part, site = nearest_part(plan, path=line.path), sites.get(line.path)
            is_quantized = site is not None and part in active and line.kind != "function"
            bits = site.weight_bits * site.activation_bits if site is not None and is_quantized else FLOAT_BITS**2
            totals[part] += bits * line.macs
        elif include_operations:
            totals[nearest_part(plan, path=line.path)] += FLOAT_BITS**2 * line.macs
    return BitOperations(parts=totals)


def macs_by_part(plan: Plan, macs: Iterable[MacLine]) -> dict[str, int]:
    """Return the MACs of the layers per part of the plan."""
    totals = dict.fromkeys(plan.parts, 0)
    for line in macs:
        if line.is_layer:
            totals[nearest_part(plan, path=line.path)] += line.macs
    return totals


def pointwise_share(model: nn.Module, macs: Iterable[MacLine]) -> float:
    """Return the share of the layers' MACs in 1x1 convolutions and linear layers; attention projections are such.

    They are what common runtimes can multiply at four bits; wider kernels they widen to eight, or to float.

    Args:
        model: The model that was counted.
        macs: From ``count_macs``.
    """
    modules = dict(model.named_modules())
    layers = [line for line in macs if line.is_layer]
    pointwise = sum(line.macs for line in layers if is_pointwise(modules[line.path]) and line.kind != "function")
    return pointwise / max(sum(line.macs for line in layers), 1)


def is_pointwise(module: nn.Module) -> bool:
    """Whether a layer multiplies each position of its input alone: linear, attention's projections, 1x1 convolution.

    >>> is_pointwise(nn.Conv2d(2, 2, 1, stride=2)), is_pointwise(nn.Conv2d(2, 2, 3)), is_pointwise(nn.Linear(2, 2))
    (True, False, True)
    """
    if isinstance(module, nn.Conv2d):
        return math.prod(module.kernel_size) == 1 and module.groups == 1
    return isinstance(module, nn.Linear | nn.MultiheadAttention)


def weights_by_site(model: nn.Module, plan: Plan) -> dict[str, int]:
    """Return the number of weights at each quantized site, biases left out; for a float or a quantized model.

    A weight that several layers hold counts at the first of them.
    """
    modules, counted = dict(model.named_modules()), set[Hashable]()
    return {site.path: sum(_weight_counts(modules[site.path], counted)) for site in plan.quantized}


def mean_bits(plan: Plan, *, weights: Mapping[str, int], macs: Iterable[MacLine]) -> MeanBits:
    """Return the mean bits of weights, and of inputs over the multiply-accumulates that read them.

    Args:
        plan: Bits per site.
        weights: From ``weights_by_site``.
        macs: From ``count_macs``; layers in float do not count.
    """
    sites = {site.path: site for site in plan.quantized}
    stored = sum(weights[path] * site.weight_bits for path, site in sites.items())
    read = [(line.macs, sites[line.path].activation_bits) for line in macs if line.is_layer and line.path in sites]
    products = sum(macs for macs, _ in read)
    inputs = sum(macs * bits for macs, bits in read) / products if products else float(FLOAT_BITS)
    return MeanBits(stored / max(sum(weights.values()), 1), inputs)


def mixed_size_mb(plan: Plan, *, weights: Mapping[str, int], trainable: int, bits: int) -> float:
    """Return the paper's model size where layers differ: every parameter at ``bits``, plus what each layer differs.

    With ``bits`` everywhere it is the rule of ``nominal_size_mb``.

    Args:
        plan: Bits per site.
        weights: From ``weights_by_site``.
        trainable: Trainable parameters of the float model before batch norm is folded.
        bits: Of everything that is no weight of a quantized site.
    """
    more = sum(weights[site.path] * (site.weight_bits - bits) for site in plan.quantized)
    return (trainable * bits + more) / 8 / 2**20


def nominal_size_mb(model: nn.Module, *, bits: int = FLOAT_BITS) -> float:
    """Return the paper's model size: trainable parameters times ``bits`` / 8 / 2^20, no scales, no exceptions.

    Count the float model before batch norm is folded, with the parameters frozen that float training freezes.

    >>> nominal_size_mb(nn.Linear(1024, 1024, bias=False), bits=8)
    1.0
    """
    return trainable_parameters(model) * bits / 8 / 2**20


def trainable_parameters(model: nn.Module) -> int:
    """Return the number of parameters with ``requires_grad``, shared ones once.

    >>> trainable_parameters(nn.Linear(3, 2))
    8
    """
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def parameters_by_part(model: nn.Module, plan: Plan) -> dict[str, int]:
    """Return the number of parameters per part of the plan (trainable or not), shared ones once."""
    totals = dict.fromkeys(plan.parts, 0)
    for name, parameter in model.named_parameters():
        totals[nearest_part(plan, path=name)] += parameter.numel()
    return totals


def nearest_part(plan: Plan, *, path: str) -> str:
    """Return the part of the site at, above or below ``path``; what runs outside of all modules is the first part's.

    Raises:
        ValueError: there is none.
    """
    if not path:
        return plan.parts[0]
    parts: Mapping[str, str] = {site.path: site.part for site in plan.sites}
    above = path
    while above:
        below = (site.part for site in plan.sites if site.path.startswith(f"{above}."))
        if (part := parts.get(above) or next(below, None)) is not None:
            return part
        above = above.rpartition(".")[0]
    raise ValueError(f"{path} lies in no part of the plan")


def _weight_counts(module: nn.Module, counted: set[Hashable]) -> Iterator[int]:
    """Yield the elements of each weight not yet counted: of a layer one, of an attention its two projections."""
    for name, parameter in module.named_parameters(recurse=isinstance(module, nn.MultiheadAttention)):
        if name.endswith("weight") and memory_of(parameter) not in counted:
            counted.add(memory_of(parameter))
            yield parameter.numel()
