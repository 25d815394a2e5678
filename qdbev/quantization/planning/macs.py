"""Multiply-accumulates (MACs) of a forward pass, layer by layer, counted by hooks.

One MAC of a layer is one weight applied once. Deformable sampling counts 5 per sample and channel: four bilinear
products and the attention weight. What code multiplies by functions is seen one product at a time; a module whose
weights are read where nothing can be seen is named as not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves

from qdbev.quantization.planning.policy import is_deformable_conv, is_sparse_conv
from qdbev.quantization.planning.products import WatchProducts

MacKind = Literal[
    "conv1d",
    "conv2d",
    "conv3d",
    "transposed_conv",
    "sparse_conv",
    "deformable_conv",
    "linear",
    "bilinear",
    "recurrent",
    "attention",
    "function",
    "attention_product",
    "product",
    "sampling",
    "not_counted",
]

_OPERATIONS = ("attention_product", "product", "sampling", "not_counted")
_KINDS: tuple[tuple[type[nn.Module], MacKind], ...] = (
    (nn.modules.conv._ConvTransposeNd, "transposed_conv"),
    (nn.Conv1d, "conv1d"),
    (nn.Conv2d, "conv2d"),
    (nn.Conv3d, "conv3d"),
    (nn.Linear, "linear"),
    (nn.Bilinear, "bilinear"),
    (nn.RNNBase, "recurrent"),
    (nn.RNNCellBase, "recurrent"),
    (nn.MultiheadAttention, "attention"),
)
_SAMPLING_MACS = 5


@dataclass(frozen=True, kw_only=True)
class MacLine:
    """Multiply-accumulates of one layer or operation in one forward pass.

    Attributes:
        path: module path; the site's path for layers.
        kind: a layer (conv2d, linear, ..., or function: a weight that code applies without calling its layer) or an
            operation (attention_product, sampling, product: of two activations); not_counted where nothing is seen.
        macs: multiply-accumulates, all calls together.
        calls: how often it ran.
    """

    path: str
    kind: MacKind
    macs: int
    calls: int

    @property
    def is_layer(self) -> bool:
        """Whether it is a layer with weights, which the paper counts."""
        return self.kind not in _OPERATIONS


def count_macs(model: nn.Module, example_call: Callable[[], object]) -> list[MacLine]:
    """Count multiply-accumulates by hooks on one forward pass, for a float or a quantized model.

    Args:
        model: The model; used in the mode it is in.
        example_call: Runs the model once, without gradients.

    Returns:
        One line per layer that ran and per attention product and sampling step, in the order they first ran.
    """
    counts: dict[tuple[str, MacKind], list[int]] = {}

    def count(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            for kind, macs in _macs_of_call(module, args=args, kwargs=kwargs, output=output):
                _add(counts, path=path, kind=kind, macs=macs)

        return hook

    def multiply(path: str, has_weight: bool, macs: int) -> None:
        _add(counts, path=path, kind="function" if has_weight else "product", macs=macs)

    known = {path: module for path, module in model.named_modules() if _kind(module) is not None}
    handles = [module.register_forward_hook(count(path), with_kwargs=True) for path, module in known.items()]
    handles += list(_watch_sampling(model, counts))
    watch = WatchProducts(model, counted=known, on_product=multiply)
    handles += watch.hooks()
    try:
        with torch.no_grad(), watch:
            example_call()
    finally:
        for handle in handles:
            handle.remove()
    for path in watch.unseen:
        _add(counts, path=path, kind="not_counted", macs=0)
    return [MacLine(path=p, kind=k, macs=macs, calls=calls) for (p, k), (macs, calls) in counts.items()]


def not_counted(lines: Iterable[MacLine]) -> list[str]:
    """Return the paths of the modules that ran and whose work cannot be seen."""
    return [line.path for line in lines if line.kind == "not_counted"]


def _kind(module: nn.Module) -> MacKind | None:
    """The kind of a layer that is counted by its formula; None of anything else."""
    if is_deformable_conv(module):
        return "deformable_conv"
    if is_sparse_conv(module):
        return "sparse_conv"
    return next((kind for cls, kind in _KINDS if isinstance(module, cls)), None)


def _macs_of_call(module: nn.Module, *, args: Any, kwargs: Any, output: Any) -> Iterator[tuple[MacKind, int]]:
    """Yield the MACs of one call of a layer."""
    kind = _kind(module)
    assert kind is not None
    tensors = [value for value in tree_leaves((args, kwargs, output)) if isinstance(value, Tensor)]
    if any(value.is_nested for value in tensors):
        yield "not_counted", 0  # rows of lengths of their own
    elif isinstance(module, nn.MultiheadAttention):
        yield from _macs_of_attention(module, args=args, kwargs=kwargs)
    elif isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
        names = getattr(module, "_flat_weights_names", ("weight_ih", "weight_hh"))
        weights = sum(_shape_of(module, name).numel() for name in names if name.startswith("weight_"))
        yield kind, tensors[0].numel() // module.input_size * weights  # of a packed sequence: the steps that it has
    elif kind == "sparse_conv":
        pairs = _sparse_pairs(module, output)
        yield ("not_counted", 0) if pairs is None else (kind, pairs * _channels(module))
    else:
        values = tensors[0] if kind == "transposed_conv" else output
        yield kind, values.numel() * _shape_of(module, "weight")[1:].numel()  # inputs of an output times the kernel


def _shape_of(module: nn.Module, weight: str) -> torch.Size:
    """Shape of a weight: of the parameter, or of what a parametrization or a hook computes in its place."""
    parameter = module._parameters.get(weight)  # the attribute of a quantized layer may be a property
    if parameter is not None:
        return parameter.shape
    with _disable_current_modes():
        return torch.Size(getattr(module, weight).shape)


def _channels(module: nn.Module) -> int:
    """Input channels times output channels of a sparse convolution."""
    return int(module.in_channels) * int(module.out_channels)  # type: ignore[arg-type]


def _sparse_pairs(module: nn.Module, output: Any) -> int | None:
    """How many (input, output) pairs a sparse convolution has multiplied, by its rule book; None where it has none."""
    if getattr(module, "conv1x1", False):
        return int(output.features.shape[0])
    book = getattr(output, "indice_dict", {}).get(getattr(module, "indice_key", None))
    pairs = book[3] if isinstance(book, (tuple, list)) and len(book) > 3 else None
    return int(pairs.sum()) if isinstance(pairs, Tensor) else None


def _macs_of_attention(module: nn.MultiheadAttention, *, args: Any, kwargs: Any) -> Iterator[tuple[MacKind, int]]:
    """Four projections, and QK^T and AV over the heads."""
    named = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
    query, key, value = named["query"], named["key"], named["value"]
    width = module.embed_dim
    yield "attention", width * (2 * query.numel() + key.numel() + value.numel())
    sequence = 0 if query.ndim == 2 or not module.batch_first else 1
    yield "attention_product", 2 * query.numel() * key.shape[sequence]


def _watch_sampling(model: nn.Module, counts: dict[tuple[str, MacKind], list[int]]) -> Iterator[Any]:
    """Hook deformable attention, told by its ``sampling_offsets`` and ``value_proj`` layers, and other sampling.

    A module that states its ``samples_per_query`` takes so many samples of all channels for each of its outputs.

    Each output token of C channels takes, per head, its samples of C / heads channels. Tokens are counted at the
    output, because a module may compute offsets once per BEV cell and sample with them in several cameras.
    """
    offset_channels: dict[str, int] = {}

    def keep(path: str) -> Callable[..., None]:
        return lambda module, inputs, output: offset_channels.__setitem__(path, output.shape[-1])

    def count(path: str, width: int, heads: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if path in offset_channels and isinstance(output, Tensor):
                samples = output.numel() // width * (offset_channels[path] // 2)
                _add(counts, path=path, kind="sampling", macs=_SAMPLING_MACS * samples * (width // heads))

        return hook

    def count_samples(path: str, samples: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            _add(counts, path=path, kind="sampling", macs=_SAMPLING_MACS * samples * output.numel())

        return hook

    for path, module in model.named_modules():
        samples = getattr(module, "samples_per_query", None)
        if isinstance(samples, int):
            yield module.register_forward_hook(count_samples(path, samples))
        offsets, value = getattr(module, "sampling_offsets", None), getattr(module, "value_proj", None)
        heads = getattr(module, "num_heads", getattr(module, "heads", None))
        if isinstance(offsets, nn.Linear) and isinstance(value, nn.Linear) and isinstance(heads, int):
            yield offsets.register_forward_hook(keep(path))
            yield module.register_forward_hook(count(path, value.out_features, heads))


def _add(counts: dict[tuple[str, MacKind], list[int]], *, path: str, kind: MacKind, macs: int) -> None:
    entry = counts.setdefault((path, kind), [0, 0])
    entry[0] += macs
    entry[1] += 1
