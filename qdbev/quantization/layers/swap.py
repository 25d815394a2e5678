"""Putting a plan into a model, and switching it: quantize, calibrate, choose the parts that are on.

``quantize(model, plan)`` changes layers in place; nothing is on afterwards. ``observing(model)`` is the calibration
context. ``set_parts`` and ``set_sites`` switch on exactly what they are given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal

from torch import nn

from qdbev.quantization.grid.rectifier import QuantReLU
from qdbev.quantization.layers.attention import QuantMultiheadAttention
from qdbev.quantization.layers.quantized import (
    QuantConv2d,
    QuantEmbedding,
    QuantizedLayer,
    QuantLinear,
    deformable_class,
    quantizer_of,
)
from qdbev.quantization.layers.quantizer import Quantizer
from qdbev.quantization.planning.plan import FLOAT_BITS, Plan, Site
from qdbev.quantization.planning.policy import is_deformable_conv

Tensors = Literal["all", "weights", "inputs"]

_CLASSES: dict[str, type[nn.Module]] = {
    "conv2d": QuantConv2d,
    "linear": QuantLinear,
    "embedding": QuantEmbedding,
    "attention": QuantMultiheadAttention,
}
_FLOAT_CLASSES: dict[str, type[nn.Module]] = {
    "conv2d": nn.Conv2d,
    "linear": nn.Linear,
    "embedding": nn.Embedding,
    "attention": nn.MultiheadAttention,
}


def quantize(
    model: nn.Module,
    plan: Plan,
    *,
    scale_rule: str = "qdbev",
    narrow_range: bool = False,
    weight_observer: str = "minmax",
    weight_granularity: Literal["channel", "tensor"] = "channel",
    activation_observer: str = "minmax",
    percentile: float = 99.99,
    follow_weights: bool | None = None,
    activation_ema: float | None = None,
    unsigned_inputs: bool = False,
    offset_inputs: bool = False,
    narrow_inputs: bool = False,
) -> nn.Module:
    """Give the layers of ``model`` the quantizers of ``plan``, in place; all are off afterwards.

    Parameters keep their objects and names; quantizers appear beside them (``X.weight_quantizer.scale`` ...). A ReLU
    may leave its backward pass to the layer behind it: ``qdbev.quantization.grid.rectifier``.

    Args:
        model: The float model the plan was made of.
        plan: What is quantized where.
        scale_rule: ``qdbev`` (Eq. 1) or ``hawq``.
        narrow_range: Leave out the most negative integer.
        weight_observer: For weights; only minmax can follow a weight that is trained.
        weight_granularity: One scale per output ``channel`` (embedding: per row) or per ``tensor``.
        activation_observer: For inputs.
        percentile: For the percentile observer, of weights or inputs.
        follow_weights: Weight ranges follow the weights; None means where the observer is minmax.
        activation_ema: Momentum with which input ranges go on moving in training; None freezes them.
        unsigned_inputs: Inputs that calibration never sees negative get unsigned integers.
        offset_inputs: Inputs get an offset, which calibration sets; then their integers keep the sign.
        narrow_inputs: ``narrow_range`` for inputs alone.

    Returns:
        ``model`` itself.

    Raises:
        ValueError: the plan does not fit the model, or an impossible choice.
    """
    if weight_granularity not in ("channel", "tensor"):
        raise ValueError(f"weight_granularity must be channel or tensor, got {weight_granularity!r}")
    modules = dict(model.named_modules())
    for site in plan.quantized:
        _check_site(site, modules.get(site.path))
    grid = partial(Quantizer, scale_rule=scale_rule, percentile=percentile)
    follow = weight_observer == "minmax" if follow_weights is None else follow_weights
    of_weights = partial(grid, observer=weight_observer, follow=follow, narrow_range=narrow_range)
    of_inputs = partial(
        grid,
        observer=activation_observer,
        ema_momentum=activation_ema,
        may_be_unsigned=unsigned_inputs,
        has_offset=offset_inputs,
        narrow_range=narrow_range or narrow_inputs,
    )
    per_channel = weight_granularity == "channel"
    # Built once for nothing: an impossible choice is refused before any layer is changed.
    of_weights(name="weights", bits=8, **_granularity(1 if per_channel else None))
    of_inputs(name="inputs", bits=8)
    for site in plan.quantized:
        layer = _change_class(modules[site.path], site=site)
        _add_weight_quantizers(layer, build=of_weights, per_channel=per_channel)
        _add_input_quantizers(layer, build=of_inputs)
        layer.train(layer.training)
    _forbid_fast_paths(model)
    for module in model.modules():
        if type(module) is nn.ReLU:
            module.__class__ = QuantReLU
    return model


def quantized_layers(model: nn.Module) -> dict[str, QuantizedLayer]:
    """Return the quantized layers by the path of their site (without prefixes such as DDP's ``module.``)."""
    layers = (module for module in model.modules() if isinstance(module, QuantizedLayer))
    return {layer.site.path: layer for layer in layers}


def set_parts(model: nn.Module, parts: Iterable[str]) -> None:
    """Switch on exactly the sites of these parts, everything else off.

    Raises:
        ValueError: a part with no quantized site.
    """
    wanted, layers = set(parts), quantized_layers(model)
    unknown = wanted - {layer.site.part for layer in layers.values()}
    if unknown:
        raise ValueError(f"no quantized layer belongs to {', '.join(sorted(unknown))}; parts are {_parts_of(layers)}")
    for layer in layers.values():
        _switch(layer, on=layer.site.part in wanted)


def set_sites(model: nn.Module, paths: Iterable[str], *, tensors: Tensors = "all") -> None:
    """Switch on exactly these sites, everything else off.

    Args:
        model: A quantized model.
        paths: Sites.
        tensors: Of these sites switch on ``all`` quantizers, those of ``weights`` or those of ``inputs``.

    Raises:
        ValueError: a path that is no quantized site.
    """
    wanted, layers = set(paths), quantized_layers(model)
    unknown = wanted - set(layers)
    if unknown:
        raise ValueError(f"these are no quantized sites: {', '.join(sorted(unknown))}")
    for path, layer in layers.items():
        _switch(layer, on=path in wanted, tensors=tensors)


def active_parts(model: nn.Module) -> set[str]:
    """Return the parts in which any quantizer is on."""
    layers = quantized_layers(model).values()
    return {layer.site.part for layer in layers if any(q.state == "on" for q in layer.quantizers())}


def start_observing(model: nn.Module, parts: Iterable[str] | None = None) -> None:
    """Put every input quantizer into observing and weight quantizers off: the model runs in float and is watched.

    Args:
        model: A quantized model.
        parts: Watch these alone, and leave the others on or off as they are.
    """
    for layer in _layers_of(model, parts):
        for weight in layer.quantized_weights():
            weight.quantizer.state = "off"
        for quantizer in layer.input_quantizers():
            quantizer.state = "observing"


def finish_observing(model: nn.Module, parts: Iterable[str] | None = None) -> list[str]:
    """Turn what was observed, and the weights, into ranges and switch all that was watched off.

    Returns:
        The input quantizers through which nothing passed; they keep the range they had, or none.
    """
    unseen = []
    for layer in _layers_of(model, parts):
        for weight in layer.quantized_weights():
            weight.quantizer.calibrate(weight.value)
        unseen += [quantizer.name for quantizer in layer.input_quantizers() if not quantizer.finish_observing()]
    return unseen


@contextmanager
def observing(
    model: nn.Module,
    *,
    parts: Iterable[str] | None = None,
    observer: str | None = None,
    unsigned_inputs: bool | None = None,
) -> Iterator[None]:
    """Calibrate: everything that runs inside is watched in float; ranges are set at the end, all is off afterwards.

    If the block raises, no range is changed.

    Args:
        model: A quantized model.
        parts: Watch these alone; the others stay on or off as they are.
        observer: What chooses the ranges, of weights and inputs, in place of what the quantizers were made with; ranges
            that follow their tensor stay min-max.
        unsigned_inputs: As in ``quantize``, in place of what the quantizers were made with.
    """
    watched = None if parts is None else tuple(parts)
    if observer is not None:
        for layer in _layers_of(model, watched):
            for quantizer in layer.quantizers():
                if not quantizer.follows:
                    quantizer.choose_by(observer)
    if unsigned_inputs is not None:
        for layer in _layers_of(model, watched):
            for quantizer in layer.input_quantizers():
                quantizer.may_be_unsigned = unsigned_inputs
    start_observing(model, watched)
    try:
        yield
    except BaseException:
        for layer in _layers_of(model, watched):
            _switch(layer, on=False)
        raise
    finish_observing(model, watched)


def _check_site(site: Site, module: nn.Module | None) -> None:
    """Raise ValueError where the plan was made of another model, or the model is quantized already."""
    if module is None:
        raise ValueError(f"the plan has {site.path}, which the model has not; was it made of another model?")
    if isinstance(module, QuantizedLayer):
        raise ValueError(f"{site.path} is quantized already")
    expected = _FLOAT_CLASSES.get(site.kind)
    fits = is_deformable_conv(module) if expected is None else isinstance(module, expected)
    if not fits:
        raise ValueError(f"{site.path} is a {type(module).__name__} in the model and {site.kind} in the plan")


def _change_class(module: nn.Module, *, site: Site) -> QuantizedLayer:
    module.__class__ = deformable_class(type(module)) if site.kind == "deformable_conv" else _CLASSES[site.kind]
    assert isinstance(module, QuantizedLayer)
    module.site = site
    return module


def _granularity(channels: int | None) -> dict[str, int | None]:
    """Return axis and channels: the first axis for that many channels, or one scale for None."""
    return {"axis": None if channels is None else 0, "channels": channels}


def _add_weight_quantizers(layer: QuantizedLayer, *, build: Callable[..., Quantizer], per_channel: bool) -> None:
    """Register a quantizer per weight, or None in its place where the plan says float."""
    for name in layer.weight_names:
        weight, path = layer.get_parameter(name), quantizer_of(name)
        quantizer = None
        if layer.site.weight_bits < FLOAT_BITS:
            granularity = _granularity(weight.shape[0] if per_channel else None)
            quantizer = build(name=f"{layer.site.path}.{path}", bits=layer.site.weight_bits, **granularity)
        layer.add_quantizer(path, quantizer and quantizer.to(weight.device))


def _add_input_quantizers(layer: QuantizedLayer, *, build: Callable[..., Quantizer]) -> None:
    """Register a quantizer per input, or None in its place where the plan says float."""
    for path in layer.input_names:
        quantizer = None
        if layer.site.activation_bits < FLOAT_BITS:
            quantizer = build(name=f"{layer.site.path}.{path}", bits=layer.site.activation_bits)
        layer.add_quantizer(path, quantizer and quantizer.to(next(layer.parameters()).device))


def _forbid_fast_paths(model: nn.Module) -> None:
    """Keep ``nn.TransformerEncoderLayer`` from its fused path, which reads weights without calling their layers."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0


def _switch(layer: QuantizedLayer, *, on: bool, tensors: Tensors = "all") -> None:
    for weight in layer.quantized_weights():
        weight.quantizer.state = "on" if on and tensors != "inputs" else "off"
    for quantizer in layer.input_quantizers():
        quantizer.state = "on" if on and tensors != "weights" else "off"


def _layers_of(model: nn.Module, parts: Iterable[str] | None) -> list[QuantizedLayer]:
    layers, wanted = quantized_layers(model).values(), None if parts is None else set(parts)
    return [layer for layer in layers if wanted is None or layer.site.part in wanted]


def _parts_of(layers: dict[str, QuantizedLayer]) -> str:
    return ", ".join(dict.fromkeys(layer.site.part for layer in layers.values()))
