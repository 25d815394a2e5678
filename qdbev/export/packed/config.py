"""``config.json`` of a packed model: the format and its version, how to read each tensor, what the model is, digests.

``quantization_config`` has the keys of compressed-tensors; ``qdbev`` is our own, and enough to read the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from qdbev.export.packed.state import Limits, PackedState
from qdbev.quantization import FLOAT_BITS, Plan, Site

FORMAT_VERSION = 1
TURNED_VERSION = 2
"""Of a file with the weight of a transposed convolution, whose output channels lie elsewhere; all else is version 1."""
UNIFORM, MIXED = "pack-quantized", "mixed-precision"

_DIGEST = "digest"


class Unreadable(ValueError):
    """A packed folder that is damaged, of a later version, or of another model; the message says what is wrong."""


def packed_config(
    packed: PackedState, *, plan: Plan, architecture: str, description: Mapping[str, Any], files: Mapping[str, Any]
) -> dict[str, Any]:
    """The document.

    Args:
        packed: What the file holds.
        plan: Bits and reasons, layer by layer.
        architecture: The kind of the detector.
        description: JSON of what builds the model again; it goes into ``qdbev``.
        files: Size and sha256 of each file that counts.
    """
    own = {
        "format_version": _version_of(packed),
        "files": dict(files),
        "weights": _grids(packed.weights),
        "inputs": _grids(packed.inputs),
        **description,
    }
    config = {"architectures": [architecture], "quantization_config": _quantization(packed, plan=plan), "qdbev": own}
    return sealed(config)


def sealed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The document with the digest of all that it says, in place of the one it may have."""
    own = {name: value for name, value in config["qdbev"].items() if name != _DIGEST}
    content = {**config, "qdbev": own}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return {**content, "qdbev": own | {_DIGEST: hashlib.sha256(text.encode("ascii")).hexdigest()}}


def checked(text: bytes) -> dict[str, Any]:
    """The document in the bytes of a ``config.json``.

    Raises:
        Unreadable: It is none, was changed, or is of a later version.
    """
    try:
        config = json.loads(text.decode("utf-8"))
        version = config["qdbev"]["format_version"]
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError, KeyError, TypeError):
        raise Unreadable("config.json describes no packed model of qdbev") from None
    if version not in (FORMAT_VERSION, TURNED_VERSION):
        known = f"{FORMAT_VERSION} and {TURNED_VERSION}"
        raise Unreadable(f"config.json is of format version {version!r}; this qdbev reads versions {known}")
    if config != sealed(config):
        raise Unreadable("config.json was changed after it was written: its content does not match its digest")
    document: dict[str, Any] = config
    return document


def grids_of(config: Mapping[str, Any], kind: str) -> dict[str, Limits]:
    """The grids of ``weights`` or ``inputs`` by name."""
    return {name: Limits(*limits) for name, limits in config["qdbev"][kind].items()}


def _version_of(packed: PackedState) -> int:
    turned = any(f"{name}_groups" in packed.tensors for name in packed.weights)
    return TURNED_VERSION if turned else FORMAT_VERSION


def _grids(grids: Mapping[str, Limits]) -> dict[str, list[int]]:
    return {name: list(limits) for name, limits in grids.items()}


def _quantization(packed: PackedState, *, plan: Plan) -> dict[str, Any]:
    """The keys of compressed-tensors: layers of equal grids are a group."""
    groups: dict[str, dict[str, Any]] = {}
    for site in plan.quantized:
        unsigned = any(name.rpartition(".")[0] == site.path and not grid.low for name, grid in packed.inputs.items())
        name = f"W{site.weight_bits}A{site.activation_bits}" + ("_unsigned" if unsigned else "")
        group = groups.setdefault(name, _group(site, packed=packed, symmetric=not unsigned))
        group["targets"].append(site.path)
    widths = {grid.bits for grid in packed.weights.values()}
    return {
        "quant_method": "qdbev",
        "format": UNIFORM if len(widths) < 2 else MIXED,
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": [site.path for site in plan if not site.quantized],
    }


def _group(site: Site, *, packed: PackedState, symmetric: bool) -> dict[str, Any]:
    scale = packed.tensors.get(f"{next(iter(packed.weights), '')}_scale")
    strategy = "tensor" if scale is not None and scale.ndim == 1 else "channel"
    return {
        "targets": [],
        "weights": _tensor_scheme(site.weight_bits, symmetric=True, strategy=strategy),
        "input_activations": _tensor_scheme(site.activation_bits, symmetric=symmetric, strategy="tensor"),
        "output_activations": None,
        "format": UNIFORM,
    }


def _tensor_scheme(bits: int, *, symmetric: bool, strategy: str) -> dict[str, Any] | None:
    if bits >= FLOAT_BITS:
        return None
    return {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": strategy, "dynamic": False}
