"""The mean of layers' outputs per channel over a run, watched by hooks: what empirical bias correction compares.

The two projections of ``nn.MultiheadAttention`` are never called; the mean of the first follows from the means of
query, key and value, because it is linear, and the output of the second is that of the module.

Shapes: C output channels, E embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from qdbev.quantization.layers.attention import QuantMultiheadAttention
from qdbev.quantization.layers.quantized import QuantizedLayer, through
from qdbev.quantization.layers.swap import quantized_layers

_PROJECTED = ("query", "key", "value")
Place = tuple[str, str]  # path of the layer, name of the weight in it


def observed_means(model: nn.Module, run: Callable[[], object], places: Iterable[Place]) -> dict[Place, Tensor]:
    """Return the mean output of each weight per channel, over all positions and calls.

    Args:
        model: A quantized model, its quantizers in any state.
        run: Runs the model.
        places: (path of the layer, name of the weight in it).

    Returns:
        Place -> mean, float64, (C,), in the order they first ran; without those that did not run.
    """
    means: dict[Place, _Mean] = {}
    layers = quantized_layers(model)
    handles = [_watch(layers[path], (path, name), means) for path, name in places]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return {place: mean.total / mean.count for place, mean in means.items() if bool((mean.count > 0).all())}


@dataclass
class _Mean:
    """Sums per channel and how many values are in them."""

    total: Tensor
    count: Tensor


def _watch(layer: QuantizedLayer, place: Place, means: dict[Place, _Mean]) -> RemovableHandle:
    def add(total: Tensor, count: Tensor) -> None:
        mean = means.setdefault(place, _Mean(torch.zeros_like(total), torch.zeros_like(count)))
        mean.total += total
        mean.count += count

    def projected(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        named = dict(zip(_PROJECTED, args, strict=False)) | kwargs
        add(*_in_projection(module, tuple(named[name] for name in _PROJECTED)))

    def returned(module: nn.Module, args: Any, output: Any) -> None:
        tensor = output[0] if isinstance(output, tuple) else output
        is_last = isinstance(module, nn.Linear | nn.MultiheadAttention)
        add(*_sums(tensor if is_last else tensor.movedim(-3, -1)))

    if place[1] == "in_proj_weight":
        return layer.register_forward_pre_hook(projected, with_kwargs=True)
    return layer.register_forward_hook(returned)


def _sums(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over all but the last axis, float64, (C,), and the number of summands, (C,)."""
    flat = tensor.reshape(-1, tensor.shape[-1])
    total = flat.sum(0, dtype=torch.float64)
    return total, torch.full_like(total, len(flat))


def _in_projection(attention: QuantMultiheadAttention, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Sums (3 E,) of what the first projection makes of query, key and value, and their counts."""
    weight = through(attention.in_proj_weight_quantizer, attention.in_proj_weight).double()
    totals, counts = zip(*(_sums(x) for x in inputs), strict=True)
    products = [F.linear(total, part) for total, part in zip(totals, weight.chunk(3), strict=True)]
    count = torch.cat(counts)
    bias = attention.in_proj_bias
    return torch.cat(products) + (0.0 if bias is None else bias.double() * count), count
