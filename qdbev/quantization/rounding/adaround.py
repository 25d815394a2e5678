"""Adaptive rounding: whether a weight goes up or down is learned, so that its layer's output changes least.

AdaRound (Nagel et al., *Up or Down? Adaptive Rounding for Post-Training Quantization*, ICML 2020, arXiv 2004.10568).
Layer by layer ``|| (W x_q + b) - (W_q x_q + b) ||^2`` falls by gradient steps on the shares of
``qdbev.quantization.rounding.learned_rounding``; ``x_q`` is what the layer gets, quantized, behind layers that are
rounded already. The paper's asymmetric form (section 3.5) has ``W x`` there, ``x`` from the float network, and so makes
up for errors before the layer. Its inputs were not quantized; where they are, coarsely, the best fit to noisy inputs is
a smaller weight, which the layers behind do not expect. So it is an option here.

The paper draws batches of samples. A layer being linear, the error over all samples is a quadratic form of its weights,

    E = v - 2 W_q c + W_q H W_q^T        H = Cov[x_q]    c = Cov[x_q, y]    v = Var[y]    y = W x_q + b or W x + b

so the samples are run once, and every step sees all of them. The bias takes the mean of what is left, towards that of
the float network, which is what turns moments into covariances; without one they are moments. The activation function
behind a layer, which the paper may include, is not.

Shapes: N samples, I inputs of one output (channels times kernel), O output channels.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qdbev.quantization.layers.keeping import NOWHERE, Keeper
from qdbev.quantization.layers.quantized import QuantizedLayer
from qdbev.quantization.layers.quantizer import Quantizer
from qdbev.quantization.rounding.blocks import (
    Block,
    BlockTensors,
    Compensation,
    in_rounds,
    layers_of,
    pass_through,
    patches_of,
    quantize_inputs,
    roundable,
    share_of_signal,
    switch,
    tensors_of,
    watch_inputs,
)
from qdbev.quantization.rounding.kept_rounds import taken_up
from qdbev.quantization.rounding.learned_rounding import Descent, LearnedRounding
from qdbev.quantization.rounding.moments import power_of_two
from qdbev.quantization.rounding.quadratic import Quadratic, ReconstructionMoments

ROUNDS = 6
LEAST_HARM = 1e-30  # of what weights do to an output: below it there is nothing to learn
ROWS = 2048  # of one call of a linear layer, evenly spaced, up to twice as many


@torch.no_grad()
def adaptive_rounding(
    model: nn.Module,
    reference: nn.Module,
    run: Callable[[nn.Module], object],
    parts: Iterable[str],
    *,
    iterations: int,
    learning_rate: float,
    asymmetric: bool = False,
    rounds: int = ROUNDS,
    keeper: Keeper = NOWHERE,
    on_block: Callable[[int], object] | None = None,
) -> Compensation:
    """Put the weights of some parts on their grid, in place, by learned rounding.

    The samples run once in float to see what runs, then twice per round, in float and quantized: a round rounds the
    next layers in the order they run, on inputs that come from weights rounded already.

    Args:
        model: A calibrated model; its other parts run as they are switched, and afterwards these are off.
        reference: A copy of it, which gives what should come out: these parts run in float here.
        run: Runs the samples through the model it is given, the same each time.
        parts: Round the weights of these.
        iterations: Gradient steps for each layer.
        learning_rate: Adam's, for the parameters behind the shares.
        asymmetric: Whether an output should be that of the float network, not that of the same inputs.
        rounds: As many groups of layers.
        keeper: Is given what is done after each round; what it kept of a call that was stopped is not done again.
        on_block: Told how many blocks there are, as each is done.

    Returns:
        What it did to every block; deformable and grouped convolutions and embedding tables stay as they were.

    Raises:
        ValueError: Weight ranges that follow the weights, which would move under the rounded ones.
    """
    parts = tuple(parts)
    layers, floats = layers_of(model, parts), layers_of(reference, parts)
    blocks, refused = roundable(layers)
    work = taken_up(keeper.kept(), blocks=blocks, layers=layers)
    _run_in_float(floats)
    if not work.means:
        work.means = dict.fromkeys(_order(floats, blocks, run=partial(run, reference)), torch.empty(0))
        keeper.keep(work.tensors(blocks=blocks, layers=layers))
    order, descent = list(work.means), Descent(iterations, learning_rate)
    refused |= {block.path: "it did not run" for block in blocks if block not in work.means}
    quantize_inputs(layers, rounded={block.layer for block in order})
    groups = in_rounds(order, rounds)
    refused |= _left_nearest(layers, {block for group in groups[: work.done] for block in group} - work.errors.keys())
    tell = on_block or (lambda total: None)
    for _ in work.errors:
        tell(len(order))
    for group in groups[work.done :]:
        targets = _targets(floats, group, run=partial(run, reference))
        moments, unlike = _moments(layers, targets, run=partial(run, model))
        refused |= _left_nearest(layers, unlike)
        for block, gathered in moments.items():
            tensors = tensors_of(block, layer=layers[block.layer])
            work.errors[block] = _round_block(tensors, gathered, asymmetric=asymmetric, descent=descent)
            tell(len(order))
        work.done += 1
        keeper.keep(work.tensors(blocks=blocks, layers=layers))
    switch(layers, on=False)
    return Compensation(errors=work.errors, refused=refused)


def learned(
    weight_OI: Tensor, *, quantizer: Quantizer, scale: Tensor, moments: Quadratic, descent: Descent
) -> tuple[Tensor, Tensor, Tensor]:
    """Learn the rounding of a matrix. An output that nearest rounding serves better keeps it, so that none is worse.

    Args:
        weight_OI: Float weights.
        quantizer: Its bits and limits.
        scale: One scale, or one per output.
        moments: ``H``, ``c`` and ``v``.
        descent: The gradient steps.

    Returns:
        The weights on their grid, and the error of each output by nearest rounding and now, float64.
    """
    rounding = LearnedRounding(weight_OI, scale=scale, quantizer=quantizer)
    nearest = rounding.rounded()
    change, inputs = (nearest - weight_OI).double(), weight_OI.shape[1]
    harm_O = ((change @ moments.moment_II) * change).sum(1)  # what nearest rounding itself does to each output
    # powers of two, which change no digit: the gradient is taken in float32, whatever the size of weights and inputs
    weight_unit = power_of_two(weight_OI.abs().amax()).double()
    unit = power_of_two(moments.moment_II.diagonal().mean()) * weight_unit
    harm_O = torch.where(harm_O > 0, harm_O, torch.ones_like(harm_O)).clamp(min=LEAST_HARM * float(unit * weight_unit))
    factor_O1 = (2 * inputs / harm_O)[:, None]
    moment_II, cross_OI = (moments.moment_II / unit).to(weight_OI), (factor_O1 * moments.cross_OI).to(weight_OI)
    factor_O1 = (factor_O1 * unit).to(weight_OI)

    def loss() -> Tensor:
        weight = rounding()
        gradient = factor_O1 * (weight.detach() @ moment_II) - cross_OI
        return (weight * gradient).sum()

    descent.run([rounding], loss=loss)
    candidate = rounding.rounded()
    before_O, after_O = moments.errors(nearest), moments.errors(candidate)
    better_O = after_O < before_O
    return torch.where(better_O[:, None], candidate, nearest), before_O, torch.where(better_O, after_O, before_O)


def _run_in_float(floats: Mapping[str, QuantizedLayer]) -> None:
    """Let the layers of the copy run in float, their input quantizers called."""
    for layer in floats.values():
        for quantizer in layer.input_quantizers():
            quantizer.choose_by("minmax")  # the quickest: what the copy observes is not used
    pass_through(floats)


def _order(
    floats: Mapping[str, QuantizedLayer], blocks: Iterable[Block], *, run: Callable[[], object]
) -> dict[Block, None]:
    """The blocks that run, in the order they do."""
    order: dict[Block, None] = {}
    watch_inputs(floats, blocks, lambda block, x: order.update({block: None}), run=run)
    return order


def _left_nearest(layers: Mapping[str, QuantizedLayer], unlike: Iterable[Block]) -> dict[str, str]:
    """Round blocks whose calls are not those in float to nearest from now on; the reason for each."""
    quantize_inputs({block.layer: layers[block.layer] for block in unlike}, rounded=())
    return {block.path: "it runs on other shapes in float" for block in unlike}


def _rows(block: Block, x: Tensor, *, layer: QuantizedLayer) -> Tensor:
    """What the weights are multiplied with in one call, (N, I)."""
    images = patches_of(block, x, layer=layer)
    if images is not None:
        return torch.cat(images)
    rows = x.reshape(-1, x.shape[-1])
    return rows[:: max(1, len(rows) // ROWS)]


def _targets(
    floats: Mapping[str, QuantizedLayer], blocks: Iterable[Block], *, run: Callable[[], object]
) -> dict[Block, deque[Tensor]]:
    """What should come out of each block, call by call, (N, O), in main memory; without a bias that others share."""
    targets: dict[Block, deque[Tensor]] = defaultdict(deque)

    def gather(block: Block, x: Tensor) -> None:
        tensors = tensors_of(block, layer=floats[block.layer])
        bias = tensors.bias if tensors.has_outputs_alone else None
        targets[block].append(F.linear(_rows(block, x, layer=floats[block.layer]), tensors.weight_OI, bias).cpu())

    watch_inputs(floats, blocks, gather, run=run)
    return targets


def _moments(
    layers: Mapping[str, QuantizedLayer], targets: Mapping[Block, deque[Tensor]], *, run: Callable[[], object]
) -> tuple[dict[Block, ReconstructionMoments], set[Block]]:
    """The moments of blocks from a quantized run, and the blocks whose calls do not fit those in float."""
    moments: dict[Block, ReconstructionMoments] = defaultdict(ReconstructionMoments)
    unlike: set[Block] = set()

    def gather(block: Block, x: Tensor) -> None:
        x_NI = _rows(block, x, layer=layers[block.layer])
        if not targets[block] or len(targets[block][0]) != len(x_NI):
            unlike.add(block)
        else:
            moments[block].add(x_NI, targets[block].popleft().to(x_NI.device))

    watch_inputs(layers, targets, gather, run=run)
    unlike |= {block for block, left in targets.items() if left}
    return {block: gathered for block, gathered in moments.items() if block not in unlike}, unlike


def _round_block(
    block: BlockTensors, moments: ReconstructionMoments, *, asymmetric: bool, descent: Descent
) -> tuple[float, float]:
    """Round one block; its bias takes the mean of what is left."""
    alone = block.has_outputs_alone
    quadratic = moments.quadratic(centred=block.bias is not None and alone)
    if not asymmetric:
        quadratic = quadratic.of_same_inputs(block.weight_OI)
    rounded, before_O, after_O = learned(
        block.weight_OI, quantizer=block.quantizer, scale=block.scale, moments=quadratic, descent=descent
    )
    if block.bias is not None:
        left_O = moments.mean_O - rounded.double() @ moments.inputs.mean
        block.bias.copy_(left_O if alone else block.bias + block.share * left_O)
    block.weight.copy_(rounded.view_as(block.weight))
    before, after = (share_of_signal(errors_O, signal_O=quadratic.power_O) for errors_O in (before_O, after_O))
    return before, after
