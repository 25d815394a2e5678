"""The plan: for every layer of a model, what is quantized to how many bits, and why anything is not.

Every parameter of the model belongs to exactly one site of the plan, so nothing is left out in silence. Plans are made
by ``qdbev.quantization.planning.policy.make_plan``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

SiteKind = Literal["conv2d", "transposed_conv", "linear", "deformable_conv", "attention", "embedding", "float"]

CONVOLUTIONS_AND_LINEAR: tuple[SiteKind, ...] = ("conv2d", "transposed_conv", "linear", "deformable_conv")

FLOAT_BITS = 32

FLOAT_OPERATIONS: tuple[tuple[str, str], ...] = (
    ("softmax, sigmoid and inverse sigmoid", "exponentials have no symmetric integer range"),
    ("LayerNorm and unfolded batch norm", "statistics and divisions; a small share of the work"),
    ("attention products QK^T and AV", "the paper quantizes layers only; their inputs are quantized projections"),
    ("outputs of sampling_offsets and conv_offset", "coordinates: a step of the grid would move the sampling point"),
    ("bilinear sampling and point projection", "coordinates in float, values come from a quantized projection"),
    ("residual and positional sums", "summed in float and quantized at the next layer's input"),
    ("history BEV between frames", "carried in float and quantized where it is read"),
    ("box decoding", "metres and angles, a negligible share of the work"),
)


@dataclass(frozen=True, kw_only=True)
class Site:
    """One place of the plan.

    Attributes:
        path: module path, or parameter path for a raw parameter.
        part: part of the detector it belongs to.
        kind: conv2d, transposed_conv, linear, deformable_conv, attention, embedding or float.
        weight_bits: width of the weights, 32 for float.
        activation_bits: width of the inputs, 32 for float.
        reason: why so.
    """

    path: str
    part: str
    kind: SiteKind
    weight_bits: int
    activation_bits: int
    reason: str

    @property
    def quantized(self) -> bool:
        """Whether anything of it is quantized."""
        return min(self.weight_bits, self.activation_bits) < FLOAT_BITS


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is quantized where.

    Attributes:
        sites: all sites, part by part, in the model's order.
        parts: part names in order.
    """

    sites: tuple[Site, ...]
    parts: tuple[str, ...]

    def __iter__(self) -> Iterator[Site]:
        return iter(self.sites)

    @property
    def quantized(self) -> tuple[Site, ...]:
        """The sites where something is quantized."""
        return tuple(site for site in self.sites if site.quantized)

    @property
    def first_layer(self) -> str | None:
        """Path of the first layer, which reads the images; None where there is no layer."""
        return next((site.path for site in self.sites if site.kind in CONVOLUTIONS_AND_LINEAR), None)

    def site(self, path: str) -> Site:
        """Return the site at ``path``, or raise ValueError."""
        for site in self.sites:
            if site.path == path:
                return site
        raise ValueError(f"the plan has no site {path!r}")

    def counts(self) -> dict[tuple[str, str], int]:
        """Number of sites per (part, kind)."""
        return dict(Counter((site.part, site.kind) for site in self.sites))

    def table(self) -> list[dict[str, Any]]:
        """Rows for printing: one per site, then one per operation that stays in float."""
        rows = [asdict(site) for site in self.sites]
        for operation, reason in FLOAT_OPERATIONS:
            entry = Site(
                path=operation,
                part="(operations)",
                kind="float",
                weight_bits=FLOAT_BITS,
                activation_bits=FLOAT_BITS,
                reason=reason,
            )
            rows.append(asdict(entry))
        return rows

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and dicts."""
        return {"parts": list(self.parts), "sites": [asdict(site) for site in self.sites]}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Plan:
        """Read what ``to_json`` wrote; ValueError on anything else."""
        names = {field.name for field in fields(Site)}
        if set(document) != {"parts", "sites"}:
            raise ValueError(f"a plan has the keys parts and sites, got {sorted(document)}")
        for entry in document["sites"]:
            if set(entry) != names or entry["kind"] not in get_args(SiteKind):
                raise ValueError(f"a site has the fields {sorted(names)} and a known kind, got {entry!r}")
        return cls(sites=tuple(Site(**entry) for entry in document["sites"]), parts=tuple(document["parts"]))
