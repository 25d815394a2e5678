"""Multiply-accumulates (MACs) of a forward pass, layer by layer, counted by hooks.

One MAC of a layer is one weight applied once. Deformable sampling counts 5 per sample and channel: four bilinear
products and the attention weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from qdbev.quantization.planning.policy import is_deformable_conv

MacKind = Literal["conv2d", "linear", "deformable_conv", "attention", "attention_product", "sampling"]

_LAYERS = ("conv2d", "linear", "deformable_conv", "attention")
_SAMPLING_MACS = 5


@dataclass(frozen=True, kw_only=True)
class MacLine:
    """Multiply-accumulates of one layer or operation in one forward pass.

    Attributes:
        path: module path; the site's path for layers.
        kind: a layer (conv2d, linear, deformable_conv, attention) or an operation (attention_product, sampling).
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
        return self.kind in _LAYERS


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

    handles = [m.register_forward_hook(count(p), with_kwargs=True) for p, m in model.named_modules() if _counted(m)]
    handles += list(_watch_sampling(model, counts))
    try:
        with torch.no_grad():
            example_call()
    finally:
        for handle in handles:
            handle.remove()
    return [MacLine(path=p, kind=k, macs=macs, calls=calls) for (p, k), (macs, calls) in counts.items()]


def _counted(module: nn.Module) -> bool:
    kinds = (nn.Conv2d, nn.Linear, nn.MultiheadAttention)
    return isinstance(module, kinds) or is_deformable_conv(module)


def _macs_of_call(module: nn.Module, *, args: Any, kwargs: Any, output: Any) -> Iterator[tuple[MacKind, int]]:
    """Yield the MACs of one call of a layer."""
    if isinstance(module, nn.MultiheadAttention):
        yield from _macs_of_attention(module, args=args, kwargs=kwargs)
        return
    weight = module._parameters["weight"]
    assert weight is not None
    per_output = weight[0].numel()  # input channels of the group times the kernel
    kind: MacKind = "linear" if isinstance(module, nn.Linear) else "conv2d"
    yield ("deformable_conv" if is_deformable_conv(module) else kind), output.numel() * per_output


def _macs_of_attention(module: nn.MultiheadAttention, *, args: Any, kwargs: Any) -> Iterator[tuple[MacKind, int]]:
    """Four projections, and QK^T and AV over the heads."""
    named = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
    query, key, value = named["query"], named["key"], named["value"]
    width = module.embed_dim
    yield "attention", width * (2 * query.numel() + key.numel() + value.numel())
    sequence = 0 if query.ndim == 2 or not module.batch_first else 1
    yield "attention_product", 2 * query.numel() * key.shape[sequence]


def _watch_sampling(model: nn.Module, counts: dict[tuple[str, MacKind], list[int]]) -> Iterator[Any]:
    """Hook deformable attention, told by its ``sampling_offsets`` and ``value_proj`` layers.

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

    for path, module in model.named_modules():
        offsets, value = getattr(module, "sampling_offsets", None), getattr(module, "value_proj", None)
        heads = getattr(module, "num_heads", getattr(module, "heads", None))
        if isinstance(offsets, nn.Linear) and isinstance(value, nn.Linear) and isinstance(heads, int):
            yield offsets.register_forward_hook(keep(path))
            yield module.register_forward_hook(count(path, value.out_features, heads))


def _add(counts: dict[tuple[str, MacKind], list[int]], *, path: str, kind: MacKind, macs: int) -> None:
    entry = counts.setdefault((path, kind), [0, 0])
    entry[0] += macs
    entry[1] += 1
