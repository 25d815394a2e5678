"""Layers of a plan that stay in float by choice, and layers that hold one weight and are treated alike."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import Tensor, nn

from qdbev.quantization.planning.output_channels import turned_groups
from qdbev.quantization.planning.plan import FLOAT_BITS, Site
from qdbev.quantization.planning.sharing import co_holders, memory_of


def in_float(site: Site, *, reason: str) -> Site:
    """Return a site in float, for a reason."""
    return replace(site, weight_bits=FLOAT_BITS, activation_bits=FLOAT_BITS, reason=reason)


def with_float_layers(sites: Sequence[Site], *, patterns: Sequence[str]) -> list[Site]:
    """Leave the layers of some patterns in float.

    Raises:
        ValueError: a pattern that is no layer's, with names that are near.
    """
    result = list(sites)
    for pattern in patterns:
        hits = {site.path for site in sites if fnmatchcase(site.path, pattern)}
        if not hits:
            raise ValueError(f"float_layers names {pattern!r}, which matches no layer; {_near(pattern, sites)}")
        reason = f"left in float by choice: {pattern!r} of float_layers"
        result = [in_float(site, reason=reason) if site.path in hits and site.quantized else site for site in result]
    return result


def with_shared_weights(sites: Sequence[Site], *, model: nn.Module, unrun: Collection[str]) -> list[Site]:
    """Treat layers alike that hold one weight: the most bits among them, or float where one of them is in float.

    Args:
        sites: Of the model.
        model: Whose.
        unrun: Paths of layers that prediction does not run; they have no say.
    """
    others = co_holders(model)
    if not others:
        return list(sites)
    by_path = {site.path: site for site in sites}
    holders = {path: model.get_submodule(path) for path in others}
    weights = {path: _weight(module) for path, module in holders.items()}
    turned = {path: turned_groups(module) for path, module in holders.items()}
    result = []
    for site in sites:
        paths = (site.path, f"{site.path}.out_proj") if site.kind == "attention" else (site.path,)
        partners = [other for path in paths for other in others.get(path, ()) if _share(weights[path], weights[other])]
        partners = [path for path in partners if path not in unrun]
        result.append(_alike(site, partners=partners, sites=by_path, turned=turned))
    return result


def _alike(site: Site, *, partners: Sequence[str], sites: Mapping[str, Site], turned: Mapping[str, int]) -> Site:
    """The site as those let it be that hold its weight too; to a transposed convolution its channels are others."""
    if not site.quantized:
        return site
    found = [sites.get(path) for path in partners]
    for path, partner in zip(partners, found, strict=True):
        unlike = partner is None or not partner.quantized or "attention" in (site.kind, partner.kind)
        if unlike or turned[site.path] != turned[path]:
            return in_float(site, reason=f"holds a weight of {path} too, which is not quantized like it")
    most = max([site.weight_bits, *(partner.weight_bits for partner in found if partner is not None)])
    if most == site.weight_bits:
        return site
    return replace(
        site, weight_bits=most, reason=f"the bits of {partners[0]}, which holds its weight too: {site.reason}"
    )


def _weight(module: nn.Module) -> Tensor | None:
    return next((value for name, value in module._parameters.items() if name.endswith("weight")), None)


def _share(weight: Tensor | None, other: Tensor | None) -> bool:
    return weight is not None and other is not None and memory_of(weight) == memory_of(other)


def _near(pattern: str, sites: Sequence[Site]) -> str:
    names = [site.path for site in sites if site.kind != "float"]
    near = get_close_matches(pattern, names, n=3, cutoff=0.4)
    return f"did you mean {', '.join(near)}?" if near else f"layers are {', '.join(names[:3])} ..."
