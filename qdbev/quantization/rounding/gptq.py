"""Rounding that makes up for its own error: what rounding one weight does to a layer's output, the next ones take back.

The inputs of an output channel are rounded one after another. The error of each is spread over those still to come, by
the inverse covariance of the layer's inputs, so that the output changes least: Optimal Brain Quantizer (Frantar and
Alistarh, NeurIPS 2022) in the Cholesky form of GPTQ (Frantar et al., ICLR 2023, Algorithm 1), inputs of large variance
first. The bias takes the mean of what is left, as in bias correction.

Shapes: N samples, I inputs of one output (channels times kernel), O output channels, F factors of a range.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from qdbev.quantization.grid.integers import dequantize, quantize_int
from qdbev.quantization.layers.keeping import NOWHERE, Keeper
from qdbev.quantization.layers.quantizer import Quantizer
from qdbev.quantization.rounding.blocks import (
    BlockTensors,
    Compensation,
    in_rounds,
    input_means,
    input_moments,
    layers_of,
    pass_through,
    quantize_inputs,
    roundable,
    share_of_signal,
    switch,
    tensors_of,
)
from qdbev.quantization.rounding.kept_rounds import taken_up
from qdbev.quantization.rounding.moments import InputMoments

DAMPING = 0.01  # of the mean variance, added to every variance: GPTQ's value
RANGE_FACTORS = (1.0, 0.9, 0.8, 0.7)
ROUNDS = 6
STRONGER = 8  # times that damping grows tenfold where rounding has left moments indefinite


@torch.no_grad()
def compensate_rounding(
    model: nn.Module,
    run: Callable[[], object],
    parts: Iterable[str],
    *,
    rounds: int = ROUNDS,
    damping: float = DAMPING,
    range_factors: Sequence[float] = RANGE_FACTORS,
    keeper: Keeper = NOWHERE,
) -> Compensation:
    """Put the weights of some parts on their grid, in place, so that the layers' outputs change least.

    The samples run once with these parts in float, then once per round: a round rounds the next layers in the order
    they run, on inputs that are quantized and come from weights rounded already. Weight ranges may shrink on the way.

    Args:
        model: A calibrated model; its other parts run as they are switched, and afterwards these are off.
        run: Runs the samples.
        parts: Round the weights of these.
        rounds: As many groups of layers.
        damping: Share of the mean variance that is added to every variance.
        range_factors: Each output takes, of its range times these, the one that changes it least.
        keeper: Is given what is done after each run of the samples; what it kept of a call that was stopped is not
            done again.

    Returns:
        What it did to every block; deformable and grouped convolutions and embedding tables stay as they were, and so
        do the ranges of transposed convolutions with strides.

    Raises:
        ValueError: Weight ranges that follow the weights, which would move under the rounded ones.
    """
    layers = layers_of(model, parts)
    blocks, refused = roundable(layers)
    work = taken_up(keeper.kept(), blocks=blocks, layers=layers)
    pass_through(layers)
    if not work.means:
        work.means = input_means(layers, run, blocks)
        keeper.keep(work.tensors(blocks=blocks, layers=layers))
    refused |= {block.path: "it did not run" for block in blocks if block not in work.means}
    quantize_inputs(layers, rounded={block.layer for block in work.means})
    for group in in_rounds(work.means, rounds)[work.done :]:
        for block, moments in input_moments(layers, run, group).items():
            work.errors[block] = _round_block(
                tensors_of(block, layer=layers[block.layer]),
                moments,
                mean=work.means[block],
                damping=damping,
                range_factors=range_factors,
            )
        work.done += 1
        keeper.keep(work.tensors(blocks=blocks, layers=layers))
    switch(layers, on=False)
    return Compensation(errors=work.errors, refused=refused)


def compensated(
    weight_OI: Tensor, *, quantizer: Quantizer, scale_O1: Tensor, moment_II: Tensor, damping: float
) -> Tensor:
    """Return the weights on their grid, in float64, rounded one input after the other.

    An output that nearest rounding serves better keeps it, so that none is worse off.

    Args:
        weight_OI: Float weights.
        quantizer: Its bits and limits.
        scale_O1: A scale per output.
        moment_II: Covariance of the inputs, or second moments where there is no bias to take the mean.
        damping: Share of the mean variance that is added to every variance, more where that is not enough.
    """
    weight = weight_OI.double()
    nearest = _nearest(weight, quantizer=quantizer, scale_O1=scale_O1)
    order = torch.argsort(moment_II.diagonal(), descending=True, stable=True)
    factor_II = _inverse_factor(moment_II[order][:, order], damping=damping)
    if factor_II is None:
        return nearest
    rounded = _rounded_in_turn(weight[:, order], factor_II=factor_II, quantizer=quantizer, scale_O1=scale_O1)
    rounded = rounded[:, torch.argsort(order)]
    no_worse_O = _errors(rounded - weight, moment_II) <= _errors(nearest - weight, moment_II)
    return torch.where(no_worse_O[:, None], rounded, nearest)


def _inverse_factor(moment_II: Tensor, *, damping: float) -> Tensor | None:
    """The upper Cholesky factor of the inverse of damped moments, ten times as damped until there is one.

    None where no input varies, or moments are not finite: then there is nothing to make up with.
    """
    mean = float(moment_II.diagonal().mean())
    if not 0 < mean < math.inf:
        return None
    identity = torch.eye(len(moment_II), dtype=moment_II.dtype, device=moment_II.device)
    for power in range(STRONGER):
        lower, failed = torch.linalg.cholesky_ex(moment_II + 10**power * (damping * mean) * identity)
        if not failed:
            factor_II, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
        if not failed:
            return factor_II
    return None


def _rounded_in_turn(weight_OI: Tensor, *, factor_II: Tensor, quantizer: Quantizer, scale_O1: Tensor) -> Tensor:
    """Round the inputs from first to last; the error of each goes to those behind it (GPTQ, Algorithm 1)."""
    remaining, rounded = weight_OI.clone(), torch.empty_like(weight_OI)
    for i in range(weight_OI.shape[1]):
        rounded[:, i : i + 1] = _nearest(remaining[:, i : i + 1], quantizer=quantizer, scale_O1=scale_O1)
        error_O1 = (remaining[:, i : i + 1] - rounded[:, i : i + 1]) / factor_II[i, i]
        remaining[:, i + 1 :] -= error_O1 * factor_II[i, None, i + 1 :]
    return rounded


def _nearest(weight_OI: Tensor, *, quantizer: Quantizer, scale_O1: Tensor) -> Tensor:
    scale = scale_O1[:, 0].float()
    narrow = quantizer.narrow_range
    integers = quantize_int(weight_OI, scale=scale, bits=quantizer.bits, axis=0, narrow_range=narrow)
    return dequantize(integers, scale=scale.double(), axis=0)


def _round_block(
    block: BlockTensors, moments: InputMoments, *, mean: Tensor, damping: float, range_factors: Sequence[float]
) -> tuple[float, float]:
    """Round one block; ``mean`` is that of its input in float, which the bias keeps the output's mean at."""
    quantizer, weight = block.quantizer, block.weight_OI.double()
    takes_mean = block.bias is not None and block.has_outputs_alone
    moment = moments.covariance if takes_mean else moments.second
    scale_O1 = block.scale.expand(len(weight))[:, None].double()
    nearest = _nearest(weight, quantizer=quantizer, scale_O1=scale_O1)
    factors = range_factors if quantizer.axis is not None and block.has_outputs_alone else (1.0,)
    scales_FO1 = torch.stack([factor * scale_O1 for factor in factors]).float().double()
    rounded, scale_O, errors_O = _best_of_ranges(
        weight, quantizer=quantizer, scales_FO1=scales_FO1, moment_II=moment, damping=damping
    )
    if quantizer.axis is not None:
        block.scale.copy_(scale_O)
    if block.bias is not None:
        block.bias.sub_((block.share * (rounded @ moments.mean - weight @ mean)).to(block.bias))
    block.weight.copy_(rounded.view_as(block.weight))
    signal_O, nearest_O = _errors(weight, moment), _errors(nearest - weight, moment)
    return share_of_signal(nearest_O, signal_O=signal_O), share_of_signal(errors_O, signal_O=signal_O)


def _best_of_ranges(
    weight_OI: Tensor, *, quantizer: Quantizer, scales_FO1: Tensor, moment_II: Tensor, damping: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Rounded weights, scale (O,) and error (O,) of each output, with the range that changes it least."""
    repeated = weight_OI.repeat(len(scales_FO1), 1)
    rounded = compensated(
        repeated, quantizer=quantizer, scale_O1=scales_FO1.flatten(0, 1), moment_II=moment_II, damping=damping
    )
    errors_FO = _errors(rounded - repeated, moment_II).view(len(scales_FO1), -1)
    best_O, row_O = errors_FO.argmin(0), torch.arange(len(weight_OI), device=weight_OI.device)
    rounded_FOI = rounded.view(len(scales_FO1), *weight_OI.shape)
    return rounded_FOI[best_O, row_O], scales_FO1[best_O, row_O, 0], errors_FO.amin(0)


def _errors(change_OI: Tensor, moment_II: Tensor) -> Tensor:
    """Mean square that a change of weights adds to each output, (O,)."""
    return ((change_OI @ moment_II) * change_OI).sum(1)
