"""Putting a plan into a model, and switching it: quantize, calibrate, choose the parts that are on.

``quantize(model, plan)`` changes layers in place; nothing is on afterwards. ``observing(model)`` is the calibration
context. ``set_parts`` and ``set_sites`` switch on exactly what they are given.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Literal

from torch import nn

from qdbev.quantization.grid.rectifier import QuantReLU
from qdbev.quantization.layers.attention import QuantMultiheadAttention
from qdbev.quantization.layers.grids import InputGrid, WeightGrid
from qdbev.quantization.layers.quantized import (
    QuantConv2d,
    QuantConvTranspose2d,
    QuantEmbedding,
    QuantizedLayer,
    QuantLinear,
    deformable_class,
    quantizer_of,
)
from qdbev.quantization.layers.quantizer import Quantizer
from qdbev.quantization.planning.output_channels import outputs_first, turned_groups
from qdbev.quantization.planning.plan import FLOAT_BITS, Plan, Site
from qdbev.quantization.planning.policy import is_deformable_conv
from qdbev.quantization.planning.sharing import memory_of

Tensors = Literal["all", "weights", "inputs"]

_CLASSES: dict[str, type[nn.Module]] = {
    "conv2d": QuantConv2d,
    "transposed_conv": QuantConvTranspose2d,
    "linear": QuantLinear,
    "embedding": QuantEmbedding,
    "attention": QuantMultiheadAttention,
}
_FLOAT_CLASSES: dict[str, type[nn.Module]] = {
    "conv2d": nn.Conv2d,
    "transposed_conv": nn.ConvTranspose2d,
    "linear": nn.Linear,
    "embedding": nn.Embedding,
    "attention": nn.MultiheadAttention,
}


def quantize(
    model: nn.Module, plan: Plan, *, weights: WeightGrid | None = None, inputs: InputGrid | None = None
) -> nn.Module:
    """Give the layers of ``model`` the quantizers of ``plan``, in place; all are off afterwards.

    Parameters keep their objects and names; quantizers appear beside them (``X.weight_quantizer.scale`` ...). A ReLU
    may leave its backward pass to the layer behind it: ``qdbev.quantization.grid.rectifier``. Layers that hold one
    weight have one quantizer for it.

    Args:
        model: The float model the plan was made of.
        plan: What is quantized where.
        weights: How weights are put onto their grid; None: the defaults of ``WeightGrid``.
        inputs: How inputs are; None: the defaults of ``InputGrid``.

    Returns:
        ``model`` itself.

    Raises:
        ValueError: the plan does not fit the model.
    """
    modules = dict(model.named_modules())
    for site in plan.quantized:
        _check_site(site, modules.get(site.path))
    by_memory: dict[Hashable, Quantizer] = {}
    for site in plan.quantized:
        layer = _change_class(modules[site.path], site=site)
        _add_weight_quantizers(layer, grid=weights or WeightGrid(), by_memory=by_memory)
        _add_input_quantizers(layer, grid=inputs or InputGrid())
        layer.train(layer.training)
    forbid_fast_paths(model)
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
    _switch_all(layers.values(), on=[layer.site.part in wanted for layer in layers.values()])


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
    _switch_all(layers.values(), on=[path in wanted for path in layers], tensors=tensors)


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
            weight.quantizer.calibrate(weight.rows)
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
        unsigned_inputs: ``InputGrid.may_be_unsigned``, in place of what the quantizers were made with.
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


def _add_weight_quantizers(
    layer: QuantizedLayer, *, grid: WeightGrid, by_memory: MutableMapping[Hashable, Quantizer]
) -> None:
    """Register a quantizer per weight, that of the layer before where it is the same weight; None for float."""
    for name in layer.weight_names:
        weight, path, quantizer = layer.get_parameter(name), quantizer_of(name), None
        if layer.site.weight_bits < FLOAT_BITS:
            full = f"{layer.site.path}.{path}"
            channels = len(outputs_first(weight, turned=turned_groups(layer)))
            new = grid.quantizer(full, bits=layer.site.weight_bits, channels=channels).to(weight.device)
            quantizer = by_memory.setdefault(memory_of(weight), new)
        layer.add_quantizer(path, quantizer)


def _add_input_quantizers(layer: QuantizedLayer, *, grid: InputGrid) -> None:
    """Register a quantizer per input, or None in its place where the plan says float."""
    for path in layer.input_names:
        quantizer = None
        if layer.site.activation_bits < FLOAT_BITS:
            quantizer = grid.quantizer(f"{layer.site.path}.{path}", bits=layer.site.activation_bits)
            quantizer.to(next(layer.parameters()).device)
        layer.add_quantizer(path, quantizer)


def forbid_fast_paths(model: nn.Module) -> None:
    """Keep torch's encoder from its fused path, which reads weights without calling their layers, in place.

    Nor does it pack padded sequences, which no quantizer takes; what it gives at padded places is then other.
    """
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0


def _switch_all(layers: Iterable[QuantizedLayer], *, on: Iterable[bool], tensors: Tensors = "all") -> None:
    """Switch layers off, and then those on that should be: two of them may have the quantizer of one weight."""
    for layer, is_on in sorted(zip(layers, on, strict=True), key=lambda switch: switch[1]):
        _switch(layer, on=is_on, tensors=tensors)


def _switch(layer: QuantizedLayer, *, on: bool, tensors: Tensors = "all") -> None:
    for weight in layer.quantized_weights():
        _turn(weight.quantizer, "on" if on and tensors != "inputs" else "off")
    for quantizer in layer.input_quantizers():
        _turn(quantizer, "on" if on and tensors != "weights" else "off")


def _turn(quantizer: Quantizer, state: Literal["on", "off"]) -> None:
    if quantizer.state != state:  # slow to set; a bit plan asks every layer at every choice
        quantizer.state = state


def _layers_of(model: nn.Module, parts: Iterable[str] | None) -> list[QuantizedLayer]:
    layers, wanted = quantized_layers(model).values(), None if parts is None else set(parts)
    return [layer for layer in layers if wanted is None or layer.site.part in wanted]


def _parts_of(layers: dict[str, QuantizedLayer]) -> str:
    return ", ".join(dict.fromkeys(layer.site.part for layer in layers.values()))
