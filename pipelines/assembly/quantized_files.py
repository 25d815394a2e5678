"""Whether the files of a quantized detector agree: its plan, its packed weights and the float weights behind them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from safetensors import safe_open

from pipelines.lineage.kinds import LATENT, QUANTIZED, STRUCTURE, WEIGHTS
from pipelines.store.artifacts import Artifact, DamagedArtifact

_BITS_IN_FLAGS = 2
_PACKED = "_packed"


def check_quantized(artifact: Artifact) -> None:
    """Compare the files of a verified artifact; one of another kind has nothing to compare.

    Raises:
        DamagedArtifact: Naming the artifact, the file and the tensor that is not what the others say of it.
    """
    if artifact.manifest.kind not in QUANTIZED or STRUCTURE not in artifact.manifest.files:
        return
    try:
        _check(artifact)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        text = str(error) if isinstance(error, ValueError) else f"{STRUCTURE} is not as it must be ({error})"
        raise DamagedArtifact(f"artifact {artifact.path.name} is refused: {text}") from None


def _check(artifact: Artifact) -> None:
    structure: Any = json.loads(artifact.file(STRUCTURE).read_text(encoding="utf-8"))
    sites: Sequence[Mapping[str, Any]] = structure["plan"]["sites"]
    with safe_open(artifact.file(LATENT), framework="numpy") as latent:
        names = set(latent.keys())
        shapes = {name: list(latent.get_slice(name).get_shape()) for name in names}
        _check_bits(latent, sites=sites, names=names, file=LATENT)
    if not structure["packed"]:
        return
    with safe_open(artifact.file(WEIGHTS), framework="numpy") as packed:
        stored = set(packed.keys())
        _check_bits(packed, sites=sites, names=stored, file=WEIGHTS)
        for name in sorted(stored):
            if name.endswith(_PACKED):
                _check_shape(packed, weight=name.removesuffix(_PACKED), shapes=shapes)


def _check_bits(file_of_tensors: Any, *, sites: Sequence[Mapping[str, Any]], names: set[str], file: str) -> None:
    """The flags of each quantizer state the bits that the plan gives its layer."""
    for site in sites:
        for name, kind in ((f"{site['path']}.weight", "weight"), (f"{site['path']}.input", "activation")):
            flags = f"{name}_quantizer.flags"
            if flags not in names:
                continue
            state = file_of_tensors.get_tensor(flags)
            bits = int(state[_BITS_IN_FLAGS]) if state.size > _BITS_IN_FLAGS else None
            if bits != site[f"{kind}_bits"]:
                raise ValueError(f"{file}: {flags} states {bits} bits, {STRUCTURE} {site[f'{kind}_bits']}")


def _check_shape(packed: Any, *, weight: str, shapes: Mapping[str, list[int]]) -> None:
    """A packed weight has the shape of the float weight behind it."""
    stated = packed.get_tensor(f"{weight}_shape").tolist()
    if weight not in shapes:
        raise ValueError(f"{WEIGHTS}: {weight}{_PACKED} has no weight in {LATENT}")
    if stated != shapes[weight]:
        raise ValueError(f"{WEIGHTS}: {weight}_shape is {stated}, in {LATENT} it is {shapes[weight]}")
