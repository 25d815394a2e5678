"""Blocks: rows of a weight that read one input, where they lie in a layer, and what they are multiplied with.

Shapes: N samples, I inputs of one output (channels times kernel), O output channels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from qdbev.quantization.layers.quantized import QuantizedLayer
from qdbev.quantization.layers.quantizer import Quantizer
from qdbev.quantization.layers.swap import quantized_layers
from qdbev.quantization.rounding.moments import InputMean, InputMoments
from qdbev.quantization.rounding.phases import Phase, phase_patches, phases_of, share_of, taps_of

Sums = TypeVar("Sums", bound=InputMean)

SHARED = "another layer holds its weight, with inputs of its own"
POSITIONS = 256  # of an image that a convolution's inputs are taken from, evenly spaced


class Block(NamedTuple):
    """Rows of a weight that read the same input.

    Attributes:
        layer: Path of the layer.
        weight: Name of the weight in it.
        start: First row.
        stop: Row after the last.
        input: Name of the input quantizer in the layer.
        phase: Of a transposed convolution, whose outputs read parts of the kernel each; None of other layers.
    """

    layer: str
    weight: str
    start: int
    stop: int
    input: str
    phase: Phase | None = None

    @property
    def path(self) -> str:
        """Path of the weight in the model."""
        return f"{self.layer}.{self.weight}"


@dataclass(frozen=True)
class BlockTensors:
    """Views of what belongs to a block in its layer: writing into them changes the layer.

    Attributes:
        quantizer: The weight's, for its bits and limits.
        weight: Float weights, (O, ...).
        scale: One per output, (O,), or one for all, ().
        bias: (O,), or None.
        share: of the outputs that scale and bias belong to; below one these are those of other blocks too.
    """

    quantizer: Quantizer
    weight: Tensor
    scale: Tensor
    bias: Tensor | None
    share: float = 1.0

    @property
    def has_outputs_alone(self) -> bool:
        """Whether scale and bias are of this block alone, to be chosen for it."""
        return self.share == 1

    @property
    def weight_OI(self) -> Tensor:
        """The weights as a matrix."""
        return self.weight.flatten(1)


@dataclass(frozen=True)
class Compensation:
    """What was rounded.

    Attributes:
        errors: Block -> mean squared error that quantized weights put on an output, (nearest rounding, now), over the
            outputs' own variance.
        refused: Path of a quantized weight -> why it keeps nearest rounding.
    """

    errors: dict[Block, tuple[float, float]]
    refused: dict[str, str]


def layers_of(model: nn.Module, parts: Iterable[str]) -> dict[str, QuantizedLayer]:
    """The quantized layers of some parts, by path."""
    names = set(parts)
    return {path: layer for path, layer in quantized_layers(model).items() if layer.site.part in names}


def roundable(layers: Mapping[str, QuantizedLayer]) -> tuple[list[Block], dict[str, str]]:
    """Return the blocks of layers, and path of a quantized weight that is in none -> why.

    Raises:
        ValueError: Weight ranges that follow the weights, which would move under the rounded ones.
    """
    refuse_following(layers)
    shared = sharing(layers)
    blocks: list[Block] = []
    refused: dict[str, str] = {}
    for path, layer in layers.items():
        of_layer, reason = ([], SHARED) if path in shared else blocks_of(path, layer)
        blocks += of_layer
        if reason:
            refused |= {f"{path}.{weight.name}": reason for weight in layer.quantized_weights()}
    return blocks, refused


def sharing(layers: Mapping[str, QuantizedLayer]) -> set[str]:
    """Return the paths of the layers whose weight another of them holds too, and with it its quantizer."""
    weights = [(path, weight.quantizer) for path, layer in layers.items() for weight in layer.quantized_weights()]
    holders = Counter(quantizer for _, quantizer in weights)
    return {path for path, quantizer in weights if holders[quantizer] > 1}


def refuse_following(layers: Mapping[str, QuantizedLayer]) -> None:
    """Raise ValueError where a weight range follows the weights, which would move under the rounded ones."""
    for path, layer in layers.items():
        if any(weight.quantizer.follows for weight in layer.quantized_weights()):
            raise ValueError(
                f"the weight range of {path} follows its weights and would move as they are rounded; "
                "set quantization.weight_range to frozen or learned"
            )


def blocks_of(path: str, layer: QuantizedLayer) -> tuple[list[Block], str]:
    """The blocks of a layer, or none and why."""
    if len(list(layer.input_quantizers())) < len(layer.input_names):
        return [], "its input is in float, and not watched"
    if isinstance(layer, nn.MultiheadAttention):
        blocks = _attention_blocks(path, layer.embed_dim)
    elif isinstance(layer, nn.Linear):
        blocks = [Block(path, "weight", 0, layer.out_features, "input_quantizer")]
    elif isinstance(layer, nn.ConvTranspose2d) and layer.groups == 1:
        whole = Block(path, "weight", 0, layer.out_channels, "input_quantizer")
        blocks = [whole._replace(phase=phase) for phase in phases_of(layer)]
    elif isinstance(layer, nn.Conv2d) and layer.groups == 1:
        blocks = [Block(path, "weight", 0, layer.out_channels, "input_quantizer")]
    else:
        return [], f"no covariance of inputs belongs to a {layer.site.kind} of this form"
    quantized = {weight.name for weight in layer.quantized_weights()}
    return [block for block in blocks if block.weight in quantized], ""


def _attention_blocks(path: str, width: int) -> list[Block]:
    inputs = ("query_quantizer", "key_quantizer", "value_quantizer")
    rows = [(index * width, (index + 1) * width, name) for index, name in enumerate(inputs)]
    projections = [Block(path, "in_proj_weight", start, stop, name) for start, stop, name in rows]
    return [*projections, Block(path, "out_proj.weight", 0, width, "out_proj.input_quantizer")]


def tensors_of(block: Block, *, layer: QuantizedLayer) -> BlockTensors:
    """Views of a block's weights, scales and bias in its layer."""
    weight = next(weight for weight in layer.quantized_weights() if weight.name == block.weight)
    rows, quantizer, bias = slice(block.start, block.stop), weight.quantizer, layer.bias_of(block.weight)
    values, share = weight.rows[rows], 1.0
    if block.phase is not None:
        assert isinstance(layer, nn.ConvTranspose2d)
        values, share = taps_of(values, layer, phase=block.phase), share_of(layer)
    return BlockTensors(
        quantizer=quantizer,
        weight=values,
        scale=quantizer.scale if quantizer.axis is None else quantizer.scale[rows],
        bias=None if bias is None else bias[rows],
        share=share,
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


def switch(layers: Mapping[str, QuantizedLayer], *, on: bool) -> None:
    """Switch all quantizers of layers."""
    for layer in layers.values():
        for quantizer in layer.quantizers():
            quantizer.state = "on" if on else "off"


def watch_inputs(
    layers: Mapping[str, QuantizedLayer],
    blocks: Iterable[Block],
    on_input: Callable[[Block, Tensor], object],
    *,
    run: Callable[[], object],
) -> None:
    """Run, and show what comes into each block, as its input quantizer gives it: every call but empty ones."""

    def hook(block: Block) -> RemovableHandle:
        quantizer = layers[block.layer].get_submodule(block.input)
        return quantizer.register_forward_hook(lambda module, args, x: on_input(block, x) if x.numel() else None)

    handles = [hook(block) for block in blocks]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()


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
    return _gathered(layers, run, blocks, InputMoments)


def input_means(
    layers: Mapping[str, QuantizedLayer], run: Callable[[], object], blocks: Iterable[Block]
) -> dict[Block, Tensor]:
    """The means alone, (I,) each; as ``input_moments``."""
    return {block: sums.mean for block, sums in _gathered(layers, run, blocks, InputMean).items()}


def _gathered(
    layers: Mapping[str, QuantizedLayer], run: Callable[[], object], blocks: Iterable[Block], kind: type[Sums]
) -> dict[Block, Sums]:
    gathered: dict[Block, Sums] = {}

    def gather(block: Block, x: Tensor) -> None:
        sums = gathered.setdefault(block, kind())
        images = patches_of(block, x, layer=layers[block.layer])
        for x_NI in [x.reshape(-1, x.shape[-1])] if images is None else images:  # one vector may come alone
            sums.add(x_NI)

    watch_inputs(layers, blocks, gather, run=run)
    return gathered


def patches_of(block: Block, x: Tensor, *, layer: QuantizedLayer) -> list[Tensor] | None:
    """What a block's weights are multiplied with in each image of a call, (N, I) each; None of a layer on rows."""
    if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        return None
    images = x.reshape(-1, 1, *x.shape[-3:])  # one may come alone
    if isinstance(layer, nn.Conv2d):
        return [patches(image, layer) for image in images]
    assert block.phase is not None
    return [phase_patches(image, layer, phase=block.phase, positions=POSITIONS) for image in images]


def patches(image_1CHW: Tensor, conv: nn.Conv2d) -> Tensor:
    """What a convolution's weights are multiplied with at evenly spaced places of an image, (N, I)."""
    padding = conv.padding if not isinstance(conv.padding, str) else None
    if padding is None or conv.padding_mode != "zeros":
        image_1CHW, padding = F.pad(image_1CHW, conv._reversed_padding_repeated_twice), (0, 0)
    columns_IL = F.unfold(image_1CHW, conv.kernel_size, conv.dilation, padding, conv.stride)[0]  # type: ignore[arg-type]
    step = max(1, columns_IL.shape[1] // POSITIONS)
    return columns_IL[:, ::step].T


def in_rounds(order: Iterable[Block], rounds: int) -> list[list[Block]]:
    """Blocks in as many groups of neighbours, or fewer.

    >>> [len(group) for group in in_rounds([Block("a", "weight", 0, 8, "input_quantizer")] * 5, rounds=2)]
    [3, 2]
    """
    blocks = list(order)
    return [[blocks[index] for index in group.tolist()] for group in torch.arange(len(blocks)).chunk(rounds)]


def share_of_signal(errors_O: Tensor, *, signal_O: Tensor) -> float:
    """Mean error of outputs over their mean power; finite also where outputs have none.

    >>> share_of_signal(torch.tensor([1.0, 3.0]), signal_O=torch.tensor([8.0, 8.0]))
    0.25
    """
    limits, error = torch.finfo(torch.float64), errors_O.mean().clamp(min=0)
    signal = signal_O.mean().clamp(min=max(limits.tiny, limits.eps * float(error)))
    return float(error / signal)
