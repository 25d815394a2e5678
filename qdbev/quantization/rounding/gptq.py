"""Rounding that makes up for its own error: what rounding one weight does to a layer's output, the next ones take back.

The inputs of an output channel are rounded one after another. The error of each is spread over those still to come, by
the inverse covariance of the layer's inputs, so that the output changes least: Optimal Brain Quantizer (Frantar and
Alistarh, NeurIPS 2022) in the Cholesky form of GPTQ (Frantar et al., ICLR 2023, Algorithm 1), inputs of large variance
first. The bias takes the mean of what is left, as in bias correction.

Shapes: N samples, I inputs of one output (channels times kernel), O output channels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from qdbev.quantization.grid.integers import dequantize, quantize_int
from qdbev.quantization.layers.quantized import QuantizedLayer
from qdbev.quantization.layers.quantizer import Quantizer
from qdbev.quantization.layers.swap import quantized_layers

DAMPING = 0.01  # of the mean variance, added to every variance: GPTQ's value
RANGE_FACTORS = (1.0, 0.9, 0.8, 0.7)
ROUNDS = 6
POSITIONS = 256  # of an image that a convolution's inputs are taken from, evenly spaced


class Block(NamedTuple):
    """Rows of a weight that read the same input.

    Attributes:
        layer: path of the layer.
        weight: name of the weight in it.
        start: first row.
        stop: row after the last.
        input: name of the input quantizer in the layer.
    """

    layer: str
    weight: str
    start: int
    stop: int
    input: str


@dataclass
class InputMoments:
    """Mean and covariance of what a layer's weight is multiplied with, summed in float64.

    >>> moments = InputMoments()
    >>> moments.add(torch.tensor([[1.0, 2.0], [3.0, 2.0]]))
    >>> moments.mean.tolist(), moments.covariance.tolist()
    ([2.0, 2.0], [[1.0, 0.0], [0.0, 0.0]])
    """

    count: int = 0
    total_I: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    products_II: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))

    def add(self, x_NI: Tensor) -> None:
        """Take in samples."""
        self.count += len(x_NI)
        self.total_I = self.total_I.to(x_NI.device) + x_NI.sum(0, dtype=torch.float64)
        self.products_II = self.products_II.to(x_NI.device) + (x_NI.T @ x_NI).double()

    @property
    def mean(self) -> Tensor:
        """E[x], (I,)."""
        return self.total_I / self.count

    @property
    def second(self) -> Tensor:
        """E[x x^T], (I, I)."""
        return self.products_II / self.count

    @property
    def covariance(self) -> Tensor:
        """E[x x^T] - E[x] E[x]^T, (I, I)."""
        return self.second - torch.outer(self.mean, self.mean)


@dataclass(frozen=True)
class Compensation:
    """What was rounded.

    Attributes:
        errors: block -> mean squared error that quantized weights put on an output, (nearest rounding, now), over the
            outputs' own variance.
        refused: path of a quantized weight -> why it keeps nearest rounding.
    """

    errors: dict[Block, tuple[float, float]]
    refused: dict[str, str]


@torch.no_grad()
def compensate_rounding(
    model: nn.Module,
    run: Callable[[], object],
    parts: Iterable[str],
    *,
    rounds: int = ROUNDS,
    damping: float = DAMPING,
    range_factors: Sequence[float] = RANGE_FACTORS,
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

    Returns:
        What it did to every block; deformable and grouped convolutions and embedding tables stay as they were.

    Raises:
        ValueError: weight ranges that follow the weights, which would move under the rounded ones.
    """
    layers = layers_of(model, parts)
    blocks, refused = roundable(layers)
    pass_through(layers)
    reference = input_moments(layers, run, blocks)
    refused |= {f"{block.layer}.{block.weight}": "it did not run" for block in blocks if block not in reference}
    quantize_inputs(layers, rounded={block.layer for block in reference})
    errors = {}
    order = list(reference)
    for chunk in torch.arange(len(order)).chunk(rounds):
        wanted = [order[index] for index in chunk.tolist()]
        for block, moments in input_moments(layers, run, wanted).items():
            mean = reference[block].mean
            errors[block] = _round_block(
                layers[block.layer], block, moments, mean=mean, damping=damping, range_factors=range_factors
            )
    for layer in layers.values():
        for quantizer in layer.quantizers():
            quantizer.state = "off"
    return Compensation(errors=errors, refused=refused)


def roundable(layers: Mapping[str, QuantizedLayer]) -> tuple[list[Block], dict[str, str]]:
    """Return the blocks of layers, and path of a quantized weight that is in none -> why.

    Raises:
        ValueError: weight ranges that follow the weights, which would move under the rounded ones.
    """
    refuse_following(layers)
    blocks: list[Block] = []
    refused: dict[str, str] = {}
    for path, layer in layers.items():
        found, reason = blocks_of(path, layer)
        blocks += found
        if reason:
            refused |= {f"{path}.{weight.name}": reason for weight in layer.quantized_weights()}
    return blocks, refused


def refuse_following(layers: Mapping[str, QuantizedLayer]) -> None:
    """Raise ValueError where a weight range follows the weights, which would move under the rounded ones."""
    for path, layer in layers.items():
        if any(weight.quantizer.follows for weight in layer.quantized_weights()):
            raise ValueError(
                f"the weight range of {path} follows its weights and would move as they are rounded; "
                "set quantization.weight_range to frozen or learned"
            )


def pass_through(layers: Mapping[str, QuantizedLayer]) -> None:
    """Let layers run in float, with input quantizers that are called: with all off, attention calls none of them."""
    for layer in layers.values():
        for weight in layer.quantized_weights():
            weight.quantizer.state = "off"
        for quantizer in layer.input_quantizers():
            quantizer.state = "observing"


def quantize_inputs(layers: Mapping[str, QuantizedLayer], *, rounded: Collection[str]) -> None:
    """Quantize the inputs of layers, and the weights of those that are not rounded: they run as they will be."""
    for path, layer in layers.items():
        for quantizer in layer.input_quantizers() if path in rounded else layer.quantizers():
            quantizer.state = "on"


def input_moments(
    layers: Mapping[str, QuantizedLayer], run: Callable[[], object], blocks: Iterable[Block]
) -> dict[Block, InputMoments]:
    """Gather the moments of what blocks are multiplied with, as their input quantizers give it.

    Args:
        layers: Path -> layer.
        run: Runs the samples.
        blocks: Which are watched.

    Returns:
        Block -> moments, in the order they first ran, without those that did not run.
    """
    moments: dict[Block, InputMoments] = {}

    def watch(block: Block) -> RemovableHandle:
        layer = layers[block.layer]

        def gather(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            gathered = moments.setdefault(block, InputMoments())
            if isinstance(layer, nn.Conv2d):
                for image in output:
                    gathered.add(patches(image[None], layer))
            else:
                gathered.add(output.flatten(0, -2))

        return layer.get_submodule(block.input).register_forward_hook(gather)

    handles = [watch(block) for block in blocks]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return moments


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
        damping: Share of the mean variance that is added to every variance.
    """
    weight = weight_OI.double()
    nearest = _nearest(weight, quantizer=quantizer, scale_O1=scale_O1)
    variance = moment_II.diagonal()
    extra = damping * variance.mean()
    if not extra > 0:
        return nearest
    order = torch.argsort(variance, descending=True, stable=True)
    damped = moment_II[order][:, order] + extra * torch.eye(len(order), dtype=weight.dtype, device=weight.device)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor_II = torch.linalg.cholesky(inverse, upper=True)
    left, rounded = weight[:, order], torch.empty_like(weight)
    for i in range(len(order)):
        rounded[:, i : i + 1] = _nearest(left[:, i : i + 1], quantizer=quantizer, scale_O1=scale_O1)
        error_O1 = (left[:, i : i + 1] - rounded[:, i : i + 1]) / factor_II[i, i]
        left[:, i + 1 :] -= error_O1 * factor_II[i, None, i + 1 :]
    rounded = rounded[:, torch.argsort(order)]
    worse_O = _errors(rounded - weight, moment_II) > _errors(nearest - weight, moment_II)
    return torch.where(worse_O[:, None], nearest, rounded)


def _nearest(weight_OI: Tensor, *, quantizer: Quantizer, scale_O1: Tensor) -> Tensor:
    scale = scale_O1[:, 0].float()
    narrow = quantizer.narrow_range
    integers = quantize_int(weight_OI, scale=scale, bits=quantizer.bits, axis=0, narrow_range=narrow)
    return dequantize(integers, scale=scale.double(), axis=0)


def _round_block(
    layer: QuantizedLayer,
    block: Block,
    moments: InputMoments,
    *,
    mean: Tensor,
    damping: float,
    range_factors: Sequence[float],
) -> tuple[float, float]:
    """Round one block; ``mean`` is that of its input in float, which the bias keeps the output's mean at."""
    weight = next(each for each in layer.quantized_weights() if each.name == block.weight)
    quantizer, rows, bias = weight.quantizer, slice(block.start, block.stop), layer.bias_of(block.weight)
    moment = moments.second if bias is None else moments.covariance
    before = weight.value[rows].flatten(1).double()
    per_channel = quantizer.axis is not None
    scale_O1 = (quantizer.scale[rows] if per_channel else quantizer.scale.expand(len(before)))[:, None].double()
    nearest = _nearest(before, quantizer=quantizer, scale_O1=scale_O1)
    factors = range_factors if per_channel else (1.0,)
    scales = torch.cat([factor * scale_O1 for factor in factors]).float().double()
    tried = compensated(
        before.repeat(len(factors), 1), quantizer=quantizer, scale_O1=scales, moment_II=moment, damping=damping
    )
    errors_FO = _errors(tried - before.repeat(len(factors), 1), moment).view(len(factors), -1)
    best_O, row_O = errors_FO.argmin(0), torch.arange(len(before), device=before.device)
    after = tried.view(len(factors), *before.shape)[best_O, row_O]
    if per_channel:
        quantizer.scale[rows] = scales.view(len(factors), -1)[best_O, row_O].to(quantizer.scale)
    if bias is not None:
        bias[rows] -= (after @ moments.mean - before @ mean).to(bias)
    weight.value[rows] = after.view_as(weight.value[rows]).to(weight.value)
    signal = _errors(before, moment).mean().clamp(min=torch.finfo(torch.float64).tiny)
    return float(_errors(nearest - before, moment).mean() / signal), float(errors_FO.amin(0).mean() / signal)


def _errors(change_OI: Tensor, moment_II: Tensor) -> Tensor:
    """Mean square that a change of weights adds to each output, (O,)."""
    return ((change_OI @ moment_II) * change_OI).sum(1)


def layers_of(model: nn.Module, parts: Iterable[str]) -> dict[str, QuantizedLayer]:
    """The quantized layers of some parts, by path."""
    wanted = set(parts)
    return {path: layer for path, layer in quantized_layers(model).items() if layer.site.part in wanted}


def blocks_of(path: str, layer: QuantizedLayer) -> tuple[list[Block], str]:
    """The blocks of a layer, or none and why."""
    if len(list(layer.input_quantizers())) < len(layer.input_names):
        return [], "its input is in float, and not watched"
    if isinstance(layer, nn.MultiheadAttention):
        width = layer.embed_dim
        first = [
            Block(path, "in_proj_weight", index * width, (index + 1) * width, name)
            for index, name in enumerate(("query_quantizer", "key_quantizer", "value_quantizer"))
        ]
        blocks = [*first, Block(path, "out_proj.weight", 0, width, "out_proj.input_quantizer")]
    elif isinstance(layer, nn.Linear):
        blocks = [Block(path, "weight", 0, layer.out_features, "input_quantizer")]
    elif isinstance(layer, nn.Conv2d) and layer.groups == 1:
        blocks = [Block(path, "weight", 0, layer.out_channels, "input_quantizer")]
    else:
        return [], f"no covariance of inputs belongs to a {layer.site.kind} of this form"
    quantized = {weight.name for weight in layer.quantized_weights()}
    return [block for block in blocks if block.weight in quantized], ""


def patches(image_1CHW: Tensor, conv: nn.Conv2d) -> Tensor:
    """What a convolution's weights are multiplied with at evenly spaced places of an image, (N, I)."""
    padding = conv.padding if not isinstance(conv.padding, str) else None
    if padding is None or conv.padding_mode != "zeros":
        image_1CHW, padding = F.pad(image_1CHW, conv._reversed_padding_repeated_twice), (0, 0)
    columns_IL = F.unfold(image_1CHW, conv.kernel_size, conv.dilation, padding, conv.stride)[0]  # type: ignore[arg-type]
    step = max(1, columns_IL.shape[1] // POSITIONS)
    return columns_IL[:, ::step].T
