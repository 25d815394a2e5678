"""Bias absorption: a large constant part of an activation moves into the bias of the layers that read it.

Where a channel before a ReLU has mean ``m`` and standard deviation ``d``, it is above ``c = max(0, m - 3 d)`` almost
always, and there ``ReLU(x) = ReLU(x - c) + c``. So (Nagel et al., ICCV 2019, section 4.1.3, "Absorbing high biases")

    b1 <- b1 - c,   b2 <- b2 + W2 c

narrows the range of the activation between the two, and changes what is below ``c`` alone: 0.135 % of a normal
distribution. Mean and deviation are those of the batch norm that was folded into the first layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qdbev.quantization.equalisation.connections import Connections, Pair
from qdbev.quantization.equalisation.cross_layer import incoming, outgoing
from qdbev.quantization.equalisation.folding import ChannelStatistics
from qdbev.quantization.planning.policy import is_deformable_conv

_CUT_BELOW = {("relu",), ("relu", "max_pool")}  # f(x - c) + c = f(x) for x >= c >= 0


@dataclass(frozen=True)
class Absorption:
    """What was absorbed.

    Attributes:
        constants: path of the first member of a pair -> what its bias lost, >= 0, float64, (C,).
        refused: path of the first member of a pair -> why nothing was absorbed.
        statistics: those of all outputs afterwards.
    """

    constants: dict[str, Tensor]
    refused: dict[str, str]
    statistics: dict[str, ChannelStatistics]


@torch.no_grad()
def absorb_biases(
    model: nn.Module, connections: Connections, statistics: Mapping[str, ChannelStatistics]
) -> Absorption:
    """Absorb what can be absorbed exactly but for values below ``c``, in place.

    A convolution that pads with zeros is left: at the border its input is 0 and not ``c`` (the paper says nothing of
    borders). So is a deformable one, which pads too and weighs its samples, and a transposed one, to whose outputs
    different parts of the kernel lead, so that a constant does not come out as one.

    Args:
        model: A float model, equalised or not.
        connections: Its pairs, and what is between them.
        statistics: Of the outputs as they are now, see ``qdbev.quantization.equalisation.cross_layer.rescaled``.
    """
    constants, refused, after = {}, {}, dict(statistics)
    for pair in connections.pairs:
        if reason := _reason_against(model, pair, connections=connections, statistics=after):
            refused[pair.first] = reason
            continue
        mean, std = after[pair.first]
        constant = (mean - 3 * std).clamp(min=0)
        _move(model, pair, constant)
        constants[pair.first] = constant
        after[pair.first] = ChannelStatistics(mean - constant, std)
    return Absorption(constants=constants, refused=refused, statistics=after)


def through_kernel(weight: Tensor, channels: Tensor) -> Tensor:
    """Return the output of a convolution, without bias, for an input that is constant in space.

    Args:
        weight: (groups, outputs of a group, inputs of a group, kernel ...), as
            ``qdbev.quantization.equalisation.cross_layer.incoming`` gives it.
        channels: The input per channel, (groups x inputs of a group,).

    Returns:
        (groups x outputs of a group,), float64.

    >>> through_kernel(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.tensor([10.0, 1.0])).tolist()
    [37.0]
    """
    summed = weight.double().flatten(3).sum(3) if weight.ndim > 3 else weight.double()
    return torch.einsum("goi,gi->go", summed, channels.to(summed).view(len(weight), -1)).flatten()


def _move(model: nn.Module, pair: Pair, constant: Tensor) -> None:
    bias = outgoing(model, pair.first)[1]
    assert bias is not None
    bias.sub_(constant.to(bias))
    for second in pair.seconds:
        bias = outgoing(model, second)[1]
        assert bias is not None
        bias.add_(through_kernel(incoming(model, second), constant).to(bias))


def _reason_against(
    model: nn.Module, pair: Pair, *, connections: Connections, statistics: Mapping[str, ChannelStatistics]
) -> str:
    """Return why nothing of the first member's output can be absorbed, or an empty string."""
    if pair.first not in statistics:
        return "no batch norm tells the statistics of its output"
    for second in pair.seconds:
        if connections.links[second].between not in _CUT_BELOW:
            return f"there is no ReLU between it and {second}"
        module = model.get_submodule(second)
        if is_deformable_conv(module):
            return f"{second} is deformable: it weighs its samples and pads with zeros"
        if isinstance(module, nn.ConvTranspose2d):
            return f"{second} is transposed: a constant reaches its outputs through different parts of the kernel"
        if isinstance(module, nn.Conv2d) and _pads_with_zeros(module):
            return f"{second} pads with zeros"
        if module._parameters.get("bias") is None:
            return f"{second} has no bias"
    return ""


def _pads_with_zeros(conv: nn.Conv2d) -> bool:
    return conv.padding_mode == "zeros" and conv.padding not in ("valid", (0, 0))
