"""Cross-layer equalisation: the scale of a channel moves from one layer to the next until both use the same range.

For ``y = W2 f(W1 x + b1) + b2`` with ``f(s x) = s f(x)`` and any ``s > 0`` per channel, the network is the same with

    W1[i] <- W1[i] / s_i,   b1_i <- b1_i / s_i,   W2[:, i] <- W2[:, i] s_i

and with ``s_i = sqrt(r1_i r2_i) / r2_i``, where ``r`` are the largest magnitudes, ``W1[i]`` and ``W2[:, i]`` have the
range ``sqrt(r1_i r2_i)`` both (Nagel et al., *Data-Free Quantization Through Weight Equalization and Bias Correction*,
ICCV 2019, arXiv 1906.04721, section 4.1 and appendix A). A layer may be second of one pair and first of the next, so
pairs are repeated until nothing moves. Where several layers read the channel, all their columns move together and
``r2_i`` is the largest among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from qdbev.quantization.equalisation.connections import Pair
from qdbev.quantization.equalisation.folding import ChannelStatistics
from qdbev.quantization.planning.output_channels import by_group, turned_groups


@torch.no_grad()
def equalise(
    model: nn.Module, pairs: Iterable[Pair], *, tolerance: float = 1e-4, sweeps: int = 100
) -> dict[str, Tensor]:
    """Equalise the pairs of a float model, in place; its outputs do not change.

    A channel that is zero on one side keeps its scale, and no step is larger than 1e6 or smaller than 1e-6.

    Args:
        model: The model the pairs were found in.
        pairs: See ``qdbev.quantization.equalisation.connections.find_connections``.
        tolerance: Stop where no range differs from its partner's by more than this share.
        sweeps: Or after as many rounds over all pairs.

    Returns:
        Path of each first member -> what its output channels were divided by in all, float64, (C,).

    Raises:
        ValueError: a pair whose members have different numbers of channels.
    """
    pairs = list(pairs)
    factors = {pair.first: outgoing_range(model, pair.first).double().fill_(1) for pair in pairs}
    for _ in range(sweeps):
        largest = 0.0
        for pair in pairs:
            scale = _scale(model, pair)
            rescale(model, pair, scale)
            factors[pair.first] *= scale
            largest = max(largest, float((2 * scale.log()).abs().max()))
        if largest <= tolerance:
            break
    return factors


def rescaled(
    statistics: Mapping[str, ChannelStatistics], factors: Mapping[str, Tensor]
) -> dict[str, ChannelStatistics]:
    """Return the statistics of the outputs after ``equalise`` gave these factors."""
    divided = dict(statistics)
    for path in divided.keys() & factors.keys():
        mean, std = divided[path]
        divided[path] = ChannelStatistics(mean / factors[path], std / factors[path])
    return divided


def outgoing_range(model: nn.Module, path: str) -> Tensor:
    """Return the largest weight magnitude per output channel of a layer, (C,)."""
    return outgoing(model, path)[0].abs().flatten(2).amax(2).flatten()


def incoming_range(model: nn.Module, path: str) -> Tensor:
    """Return the largest weight magnitude per input channel of a layer, (C,)."""
    weight = incoming(model, path)
    return weight.abs().amax([1, *range(3, weight.ndim)]).flatten()


def outgoing(model: nn.Module, path: str) -> tuple[Tensor, Tensor | None]:
    """Return views of weight and bias (C,) by output channel; of an attention module those of the values.

    The weight is (groups, outputs of a group, inputs of a group, kernel).
    """
    module = model.get_submodule(path)
    if isinstance(module, nn.MultiheadAttention):
        bias = module.in_proj_bias
        return module.in_proj_weight.chunk(3)[2][None], None if bias is None else bias.chunk(3)[2]
    return incoming(model, path), module._parameters.get("bias")


def incoming(model: nn.Module, path: str) -> Tensor:
    """Return a view of the weight by input channel: (groups, outputs of a group, inputs of a group, kernel)."""
    module = model.get_submodule(path)
    groups = int(getattr(module, "groups", 1))
    return by_group(module.get_parameter("weight"), groups=groups, turned=turned_groups(module))


def rescale(model: nn.Module, pair: Pair, scale: Tensor) -> None:
    """Divide the first member's output by ``scale`` (C,), and multiply the others' input by it, in place."""
    weight, bias = outgoing(model, pair.first)
    weight.div_(scale.to(weight).view(*weight.shape[:2], *[1] * (weight.ndim - 2)))
    if bias is not None:
        bias.div_(scale.to(bias))
    for second in pair.seconds:
        weight = incoming(model, second)
        weight.mul_(scale.to(weight).view(len(weight), 1, -1, *[1] * (weight.ndim - 3)))


def _scale(model: nn.Module, pair: Pair) -> Tensor:
    """The factors ``s``, (C,), float64; 1 where a side is zero."""
    first = outgoing_range(model, pair.first).double()
    ranges = [incoming_range(model, second).double() for second in pair.seconds]
    for second, inputs in zip(pair.seconds, ranges, strict=True):
        if inputs.shape != first.shape:
            raise ValueError(f"{pair.first} has {len(first)} output channels and {second} {len(inputs)} input channels")
    last = torch.stack(ranges).amax(0)
    scale = (first / last).sqrt().clamp(1e-6, 1e6)
    return torch.where((first > 0) & (last > 0), scale, torch.ones_like(scale))
