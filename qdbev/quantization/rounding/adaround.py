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
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from qdbev.quantization.layers.quantized import QuantizedLayer
from qdbev.quantization.layers.quantizer import Quantizer
from qdbev.quantization.rounding.gptq import (
    Block,
    Compensation,
    InputMoments,
    layers_of,
    pass_through,
    patches,
    quantize_inputs,
    roundable,
)
from qdbev.quantization.rounding.learned_rounding import LearnedRounding, beta_at

ROUNDS = 6
ROWS = 2048  # of one call of a linear layer, evenly spaced, up to twice as many
REGULARISER = 100.0  # per weight, where what nearest rounding does to an output counts as one

Run = Callable[[nn.Module], object]


class Quadratic(NamedTuple):
    """The mean squared error of outputs as a form of the weights.

    Attributes:
        moment_II: ``H``.
        cross_OI: ``c``.
        power_O: ``v``.
    """

    moment_II: Tensor
    cross_OI: Tensor
    power_O: Tensor

    def of_same_inputs(self, weight_OI: Tensor) -> Quadratic:
        """The form with what ``weight_OI`` makes of the same inputs as the output that is wanted."""
        cross_OI = weight_OI.double() @ self.moment_II
        return Quadratic(self.moment_II, cross_OI, (cross_OI * weight_OI).sum(1))

    def errors(self, weight_OI: Tensor) -> Tensor:
        """``E`` of each output, (O,), float64."""
        weight = weight_OI.double()
        return self.power_O + ((weight @ self.moment_II - 2 * self.cross_OI) * weight).sum(1)


@dataclass
class ReconstructionMoments:
    """Moments of what a weight is multiplied with, and of what should come out, summed in float64.

    >>> moments = ReconstructionMoments()
    >>> moments.add(torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [1.0]]))
    >>> [value.tolist() for value in moments.quadratic(centred=True)]  # y = 7 - 2 x
    [[[1.0]], [[-2.0]], [4.0]]
    """

    inputs: InputMoments = field(default_factory=InputMoments)
    total_O: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    squares_O: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    products_OI: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))

    def add(self, x_NI: Tensor, y_NO: Tensor) -> None:
        """Take in samples."""
        self.inputs.add(x_NI)
        self.total_O = self.total_O.to(y_NO.device) + y_NO.sum(0, dtype=torch.float64)
        self.squares_O = self.squares_O.to(y_NO.device) + y_NO.double().square().sum(0)
        self.products_OI = self.products_OI.to(y_NO.device) + (y_NO.T @ x_NI).double()

    @property
    def mean_O(self) -> Tensor:
        """E[y], (O,)."""
        return self.total_O / self.inputs.count

    def quadratic(self, *, centred: bool) -> Quadratic:
        """The error as a form of the weights: of covariances, or of moments where there is no bias."""
        count = self.inputs.count
        cross_OI, power_O = self.products_OI / count, self.squares_O / count
        if not centred:
            return Quadratic(self.inputs.second, cross_OI, power_O)
        cross_OI = cross_OI - torch.outer(self.mean_O, self.inputs.mean)
        return Quadratic(self.inputs.covariance, cross_OI, power_O - self.mean_O.square())


@torch.no_grad()
def adaptive_rounding(
    model: nn.Module,
    reference: nn.Module,
    run: Run,
    parts: Iterable[str],
    *,
    iterations: int,
    learning_rate: float,
    asymmetric: bool = False,
    rounds: int = ROUNDS,
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
        on_block: Told how many blocks there are, as each is done.

    Returns:
        What it did to every block; deformable and grouped convolutions and embedding tables stay as they were.

    Raises:
        ValueError: weight ranges that follow the weights, which would move under the rounded ones.
    """
    parts = tuple(parts)
    layers, floats = layers_of(model, parts), layers_of(reference, parts)
    blocks, refused = roundable(layers)
    for layer in floats.values():
        for quantizer in layer.input_quantizers():
            quantizer.choose_by("minmax")  # the quickest: what the copy observes is not used
    pass_through(floats)
    order: dict[Block, None] = {}
    _watch(floats, blocks, lambda block, x: order.update({block: None}), run=partial(run, reference))
    refused |= {f"{block.layer}.{block.weight}": "it did not run" for block in blocks if block not in order}
    quantize_inputs(layers, rounded={block.layer for block in order})
    errors: dict[Block, tuple[float, float]] = {}
    for chunk in torch.arange(len(order)).chunk(rounds):
        wanted = [list(order)[index] for index in chunk.tolist()]
        targets = _targets(floats, wanted, run=partial(run, reference))
        moments, unlike = _moments(layers, targets, run=partial(run, model))
        refused |= {f"{block.layer}.{block.weight}": "it runs on other shapes in float" for block in unlike}
        quantize_inputs({block.layer: layers[block.layer] for block in unlike}, rounded=())  # nearest from now on
        for block, gathered in moments.items():
            errors[block] = _round_block(
                layers[block.layer],
                block,
                gathered,
                asymmetric=asymmetric,
                iterations=iterations,
                learning_rate=learning_rate,
            )
            if on_block is not None:
                on_block(len(order))
    for layer in layers.values():
        for quantizer in layer.quantizers():
            quantizer.state = "off"
    return Compensation(errors=errors, refused=refused)


def learned(
    weight_OI: Tensor,
    *,
    quantizer: Quantizer,
    scale: Tensor,
    moments: Quadratic,
    iterations: int,
    learning_rate: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Learn the rounding of a matrix. An output that nearest rounding serves better keeps it, so that none is worse.

    Args:
        weight_OI: Float weights.
        quantizer: Its bits and limits.
        scale: One scale, or one per output.
        moments: ``H``, ``c`` and ``v``.
        iterations: Gradient steps.
        learning_rate: Adam's.

    Returns:
        The weights on their grid, and the error of each output by nearest rounding and now, float64.
    """
    rounding = LearnedRounding(weight_OI, scale=scale, quantizer=quantizer)
    nearest = rounding.rounded()
    change, inputs = (nearest - weight_OI).double(), weight_OI.shape[1]
    harm_O = ((change @ moments.moment_II) * change).sum(1)  # what nearest rounding itself does to each output
    factor_O1 = (2 * inputs / torch.where(harm_O > 0, harm_O, torch.ones_like(harm_O)))[:, None]
    moment_II, cross_OI = moments.moment_II.to(weight_OI), (factor_O1 * moments.cross_OI).to(weight_OI)
    factor_O1 = factor_O1.to(weight_OI)
    optimiser = torch.optim.Adam(rounding.parameters(), lr=learning_rate)
    for step in range(iterations):
        with torch.enable_grad():
            weight = rounding()
            gradient = factor_O1 * (weight.detach() @ moment_II) - cross_OI
            loss = (weight * gradient).sum()
            if (beta := beta_at(step, steps=iterations)) is not None:
                loss = loss + REGULARISER * rounding.undecided(beta)
            optimiser.zero_grad()
            loss.backward()
        optimiser.step()
    tried = rounding.rounded()
    before_O, after_O = moments.errors(nearest), moments.errors(tried)
    better_O = after_O < before_O
    return torch.where(better_O[:, None], tried, nearest), before_O, torch.where(better_O, after_O, before_O)


def _watch(
    layers: Mapping[str, QuantizedLayer],
    blocks: Iterable[Block],
    on_input: Callable[[Block, Tensor], object],
    *,
    run: Callable[[], object],
) -> None:
    """Run, and show the rows that each block's weights are multiplied with (N, I), a call at a time."""

    def hook(block: Block) -> RemovableHandle:
        layer = layers[block.layer]
        quantizer = layer.get_submodule(block.input)
        return quantizer.register_forward_hook(lambda module, args, output: on_input(block, _rows(output, layer)))

    handles = [hook(block) for block in blocks]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()


def _rows(x: Tensor, layer: QuantizedLayer) -> Tensor:
    if isinstance(layer, nn.Conv2d):
        return torch.cat([patches(image[None], layer) for image in x])
    rows = x.flatten(0, -2)
    return rows[:: max(1, len(rows) // ROWS)]


def _targets(
    floats: Mapping[str, QuantizedLayer], blocks: Iterable[Block], *, run: Callable[[], object]
) -> dict[Block, deque[Tensor]]:
    """What should come out of each block, call by call, (N, O), in main memory."""
    found: dict[Block, deque[Tensor]] = defaultdict(deque)

    def gather(block: Block, x_NI: Tensor) -> None:
        layer, rows = floats[block.layer], slice(block.start, block.stop)
        bias = layer.bias_of(block.weight)
        weight_OI = layer.get_parameter(block.weight)[rows].flatten(1)
        found[block].append(F.linear(x_NI, weight_OI, None if bias is None else bias[rows]).cpu())

    _watch(floats, blocks, gather, run=run)
    return found


def _moments(
    layers: Mapping[str, QuantizedLayer], targets: Mapping[Block, deque[Tensor]], *, run: Callable[[], object]
) -> tuple[dict[Block, ReconstructionMoments], set[Block]]:
    """The moments of blocks from a quantized run, and the blocks whose calls do not fit those in float."""
    moments: dict[Block, ReconstructionMoments] = defaultdict(ReconstructionMoments)
    unlike: set[Block] = set()

    def gather(block: Block, x_NI: Tensor) -> None:
        if not targets[block] or len(targets[block][0]) != len(x_NI):
            unlike.add(block)
        else:
            moments[block].add(x_NI, targets[block].popleft().to(x_NI.device))

    _watch(layers, targets, gather, run=run)
    unlike |= {block for block, left in targets.items() if left}
    return {block: found for block, found in moments.items() if block not in unlike}, unlike


def _round_block(
    layer: QuantizedLayer,
    block: Block,
    moments: ReconstructionMoments,
    *,
    asymmetric: bool,
    iterations: int,
    learning_rate: float,
) -> tuple[float, float]:
    """Round one block; its bias takes the mean of what is left."""
    weight = next(each for each in layer.quantized_weights() if each.name == block.weight)
    quantizer, rows, bias = weight.quantizer, slice(block.start, block.stop), layer.bias_of(block.weight)
    quadratic = moments.quadratic(centred=bias is not None)
    if not asymmetric:
        quadratic = quadratic.of_same_inputs(weight.value[rows].flatten(1))
    after, before_O, now_O = learned(
        weight.value[rows].flatten(1),
        quantizer=quantizer,
        scale=quantizer.scale if quantizer.axis is None else quantizer.scale[rows],
        moments=quadratic,
        iterations=iterations,
        learning_rate=learning_rate,
    )
    if bias is not None:
        bias[rows] = (moments.mean_O - after.double() @ moments.inputs.mean).to(bias)
    weight.value[rows] = after.view_as(weight.value[rows])
    signal = quadratic.power_O.mean().clamp(min=torch.finfo(torch.float64).tiny)
    return float(before_O.mean() / signal), float(now_O.mean() / signal)
