"""Making a plan: every parameter of a model gets a site, its bits, and the reason.

Policy (QD-BEV, sections 3.1 and 4.1; where the paper is silent, ours): weights per output channel and the inputs per
tensor of every convolution, transposed or not, linear layer, deformable convolution and attention projection;
embedding tables per row; everything else in float.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Literal

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from qdbev.quantization.grid.integers import check_bits
from qdbev.quantization.planning.float_sites import in_float, with_float_layers, with_shared_weights
from qdbev.quantization.planning.plan import CONVOLUTIONS_AND_LINEAR, FLOAT_BITS, Plan, Site, SiteKind

# Classes that only guard nn.Conv2d / nn.Linear against empty inputs on old PyTorch; replaced without loss.
_EMPTY_INPUT_GUARDS = "mmcv.cnn.bricks.wrappers"
_SPARSE_NAME = "SparseConvolution"  # of mmcv and of spconv
_DEFORMABLE_NAMES = ("DeformConv2d", "ModulatedDeformConv2d")
_WAYS = ("forward", "_conv_forward", "weight", "bias", "in_proj_weight", "__call__")
_WEIGHTS = ("weight", "in_proj_weight")


def make_plan(
    model: nn.Module,
    *,
    parts: Mapping[str, Sequence[str]],
    weight_bits: int,
    activation_bits: int,
    exceptions: Mapping[str, tuple[int, int]] | None = None,
    first_last_bits: int | None = None,
    first_sites: Sequence[str] = (),
    last_sites: Sequence[str] = (),
    embedding: Literal["weight", "float"] = "weight",
    float_layers: Sequence[str] = (),
    unrun: Mapping[str, str] = MappingProxyType({}),
) -> Plan:
    """Give every parameter of ``model`` a site.

    Args:
        model: A float model (batch norm folded or not).
        parts: Part name -> module (or parameter) path prefixes; the longest prefix wins. Order is the plan's order.
        weight_bits: Width of weights, 2..16 or 32 for float.
        activation_bits: Width of inputs, 2..16 or 32.
        exceptions: Path pattern (as in ``fnmatch``) -> (weight bits, activation bits); 32, 32 keeps a site in float.
        first_last_bits: Width of both weights and inputs of the first and last layers, or None for no difference.
        first_sites: Patterns of the first layers; the plan's first convolution or linear layer if empty.
        last_sites: Patterns of the last layers; the plan's last convolution or linear layer if empty.
        embedding: ``weight`` quantizes embedding tables per row, ``float`` leaves them.
        float_layers: Patterns of layers that stay in float.
        unrun: Path of a layer that prediction does not run -> why it stays in float.

    Raises:
        ValueError: parameters outside every part, a prefix or a pattern that matches nothing, or impossible bits.
    """
    bits = (_checked(weight_bits), _checked(activation_bits))
    part_of = _PartFinder(parts)
    places = list(_scan(model, float_embeddings=embedding == "float"))
    _refuse_strays([path for path, _, _ in places], part_of=part_of, model=model)
    sites = [_site(path, part=part_of(path), kind=kind, bits=bits, reason=reason) for path, kind, reason in places]
    order = {part: index for index, part in enumerate(parts)}
    sites.sort(key=lambda site: order[site.part])
    if first_last_bits is not None:
        sites = _widen_ends(sites, bits=_checked(first_last_bits), first=first_sites, last=last_sites)
    sites = _apply_exceptions(sites, exceptions=exceptions or {})
    sites = with_float_layers(sites, patterns=float_layers)
    sites = [in_float(site, reason=unrun[site.path]) if site.path in unrun else site for site in sites]
    return Plan(sites=tuple(with_shared_weights(sites, model=model, unrun=unrun)), parts=tuple(parts))


class _PartFinder:
    """Longest-prefix lookup of the part of a path."""

    def __init__(self, parts: Mapping[str, Sequence[str]]) -> None:
        self.owners: dict[str, str] = {}
        for part, prefixes in parts.items():
            for prefix in [prefixes] if isinstance(prefixes, str) else prefixes:
                if prefix in self.owners:
                    raise ValueError(f"path {prefix!r} is in two parts: {self.owners[prefix]} and {part}")
                self.owners[prefix] = part

    def __call__(self, path: str) -> str | None:
        while path:
            if path in self.owners:
                return self.owners[path]
            path = path.rpartition(".")[0]
        return self.owners.get("")


def _checked(bits: int) -> int:
    return bits if bits == FLOAT_BITS else check_bits(bits)


def _refuse_strays(paths: Iterable[str], *, part_of: _PartFinder, model: nn.Module) -> None:
    """Raise ValueError for parameters of no part and for prefixes that name nothing."""
    strays = [path for path in paths if part_of(path) is None]
    if strays:
        raise ValueError(f"these hold parameters and belong to no part; add them to one: {', '.join(strays)}")
    known = {name for name, _ in model.named_modules(remove_duplicate=False)}
    known.update(name for name, _ in model.named_parameters(remove_duplicate=False))
    missing = [prefix for prefix in part_of.owners if prefix not in known]
    if missing:
        raise ValueError(f"these paths of the parts are not in the model: {', '.join(missing)}")


def _site(path: str, *, part: str | None, kind: SiteKind, bits: tuple[int, int], reason: str) -> Site:
    """The site at a path: bits of weights and inputs as its kind has them."""
    assert part is not None
    weight_bits = FLOAT_BITS if kind == "float" else bits[0]
    activation_bits = FLOAT_BITS if kind in ("float", "embedding") else bits[1]
    return Site(
        path=path, part=part, kind=kind, weight_bits=weight_bits, activation_bits=activation_bits, reason=reason
    )


def _scan(model: nn.Module, *, float_embeddings: bool) -> Iterator[tuple[str, SiteKind, str]]:
    """Yield (path, kind, reason) for everything that holds parameters, in the model's order."""
    inside_attention: set[int] = set()
    for path, module in model.named_modules():
        if any(cls.__name__ == "QuantizedLayer" for cls in type(module).__mro__):
            raise ValueError(f"{path} is quantized already; a plan is made of the float model")
        if id(module) in inside_attention or not any(p is not None for p in module._parameters.values()):
            continue
        kind, reason = classify(module)
        if isinstance(module, nn.MultiheadAttention):
            inside_attention.update(id(child) for child in module.modules())
        if kind == "float" and not reason:
            for name in [name for name, value in module._parameters.items() if value is not None]:
                where = f"{path}.{name}" if path else name
                yield where, "float", f"raw parameter of {type(module).__name__}, used in float"
        elif kind == "embedding" and float_embeddings:
            yield path, "float", "embedding tables are left in float by choice"
        else:
            yield path, kind, reason


def classify(module: nn.Module) -> tuple[SiteKind, str]:
    """Return the kind of one module, float where it has no quantized form; no reason marks raw parameters."""
    both = "weights per output channel, input per tensor"
    if isinstance(module, nn.MultiheadAttention):
        return _classify_attention(module)
    if is_deformable_conv(module):
        if reason := _computed_weight(module):
            return "float", reason
        return "deformable_conv", f"{both}; offsets and mask stay float"
    if isinstance(module, nn.Conv2d):
        return _plain_or_float(module, kind="conv2d", parent=nn.Conv2d, reason=both)
    if isinstance(module, nn.ConvTranspose2d):
        return _plain_or_float(module, kind="transposed_conv", parent=nn.ConvTranspose2d, reason=both)
    if isinstance(module, nn.Linear):
        return _plain_or_float(module, kind="linear", parent=nn.Linear, reason=both)
    if isinstance(module, nn.Embedding):
        table = "table per row; indices have no bits"
        return _plain_or_float(module, kind="embedding", parent=nn.Embedding, reason=table)
    return "float", _reason_for_float(module)


def _reason_for_float(module: nn.Module) -> str:
    """Why a module without a quantized form has none; nothing where it just holds raw parameters."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return "batch norm that was not folded into a convolution stays float"
    if isinstance(module, (nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)):
        return f"{type(module).__name__} stays float"
    if type(module).__module__.startswith("torch.nn.") or isinstance(module, nn.modules.conv._ConvNd):
        return f"no quantized form of {type(module).__name__} yet"
    if is_sparse_conv(module):
        return f"no quantized form of sparse convolutions ({type(module).__name__}) yet"
    return ""


def _classify_attention(module: nn.MultiheadAttention) -> tuple[SiteKind, str]:
    for inner in (module, module.out_proj):
        parent = nn.MultiheadAttention if inner is module else nn.Linear
        if reason := departure(inner, parent=parent):
            return "float", f"{reason}, which quantized attention would drop"
    if not module._qkv_same_embed_dim or module.bias_k is not None or module.add_zero_attn:
        return "float", "attention with kdim, vdim, add_bias_kv or add_zero_attn has no quantized form yet"
    return "attention", "in and out projections, weights per output channel; softmax, QK^T and AV stay float"


def _plain_or_float(module: nn.Module, *, kind: SiteKind, parent: type[nn.Module], reason: str) -> tuple[SiteKind, str]:
    """Keep in float what does more than its class of torch: a quantized one would lose it."""
    if own := departure(module, parent=parent):
        return "float", f"{own}, which a quantized {parent.__name__} would drop"
    return kind, reason


def departure(module: nn.Module, *, parent: type[nn.Module]) -> str:
    """Return in which way a module computes otherwise than its class of torch, or an empty string.

    Args:
        module: An instance of ``parent`` or of a subclass.
        parent: The class whose way is known.
    """
    cls = type(module)
    if reason := _computed_weight(module):
        return reason
    if cls.__module__ == _EMPTY_INPUT_GUARDS:
        return ""
    overridden = next((name for name in _WAYS if getattr(cls, name, None) is not getattr(parent, name, None)), None)
    return f"{cls.__name__} has its own {overridden}" if overridden else ""


def _computed_weight(module: nn.Module) -> str:
    """Return what a module's weight is computed by, or that its forward was replaced; else an empty string."""
    name = type(module).__name__
    if "forward" in vars(module):
        return f"the forward of this {name} was replaced"
    if is_parametrized(module) or any(name in module.__dict__ or name in module._buffers for name in _WEIGHTS):
        return f"the weight of this {name} is computed by a parametrization or a hook"
    return ""


def _widen_ends(sites: list[Site], *, bits: int, first: Sequence[str], last: Sequence[str]) -> list[Site]:
    layers = [site.path for site in sites if site.kind in CONVOLUTIONS_AND_LINEAR]
    if not layers:
        return sites
    patterns = [*(first or layers[:1]), *(last or layers[-1:])]
    reason = "first or last layer"
    for pattern in patterns:
        sites = _rewrite(sites, pattern=pattern, bits=(bits, bits), reason=reason)
    return sites


def _apply_exceptions(sites: list[Site], *, exceptions: Mapping[str, tuple[int, int]]) -> list[Site]:
    for pattern, (weight, activation) in exceptions.items():
        bits = (_checked(weight), _checked(activation))
        sites = _rewrite(sites, pattern=pattern, bits=bits, reason=f"exception {pattern!r}")
    return sites


def _rewrite(sites: list[Site], *, pattern: str, bits: tuple[int, int], reason: str) -> list[Site]:
    """Give the sites matching ``pattern`` other bits; ValueError if none can take them."""
    hits = {site.path for site in sites if fnmatchcase(site.path, pattern) and site.kind != "float"}
    if not hits:
        raise ValueError(f"pattern {pattern!r} matches no layer that could be quantized")
    return [_with_bits(site, bits=bits, reason=reason) if site.path in hits else site for site in sites]


def _with_bits(site: Site, *, bits: tuple[int, int], reason: str) -> Site:
    activation = FLOAT_BITS if site.kind == "embedding" else bits[1]
    return replace(site, weight_bits=bits[0], activation_bits=activation, reason=f"{reason}: {site.reason}")


def is_deformable_conv(module: nn.Module) -> bool:
    """Whether ``module`` is a deformable convolution: told by class names and weight, so that mmcv is not imported."""
    names = {cls.__name__ for cls in type(module).__mro__}
    weight = module._parameters.get("weight")
    return any(name in names for name in _DEFORMABLE_NAMES) and weight is not None and weight.ndim == 4


def is_sparse_conv(module: nn.Module) -> bool:
    """Whether ``module`` is a sparse convolution of mmcv or spconv, told by the name of its class."""
    return any(cls.__name__ == _SPARSE_NAME for cls in type(module).__mro__)
