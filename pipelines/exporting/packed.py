"""The packed export of a quantized detector: sealed once it was read back and found equal, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.assembly.job import Job
from pipelines.assembly.quantized import Quantized, built, load_quantized, structure_of
from pipelines.assembly.strict_loading import load_strictly
from pipelines.assembly.weights import package_versions
from pipelines.lineage.keys import export_key
from pipelines.lineage.kinds import PACKED, QUANTIZED
from pipelines.store.artifacts import Artifact, DamagedArtifact
from pipelines.store.making import Content, Made, made
from profiles import Profile
from profiles.sections.model import sealed_model
from profiles.sections.quantization import QuantizationProfile
from qdbev.export.packed import FORMAT_VERSION, Unreadable, packed_state, read_packed, unpacked_state, write_packed


def packed_export(job: Job, *, model: Artifact) -> Made:
    """The sealed packed export of a model artifact, made where it is missing.

    Args:
        job: Its profile is the one that the model was made with.
        model: A quantized detector, all parts of which are.

    Raises:
        ValueError: The artifact holds no detector all parts of which are quantized.
    """
    refuse_unpackable(model)
    key = export_key(PACKED, model=model.digest, settings={"format_version": FORMAT_VERSION})
    return made(
        job, PACKED, key=key, make=partial(_pack, job, model=model), known="packed before; --force does it again"
    )


def refuse_unpackable(model: Artifact) -> None:
    """Refuse what holds no detector all parts of which are quantized.

    Raises:
        ValueError: Saying what it is, and what can be packed.
    """
    kind = model.manifest.kind
    if kind not in QUANTIZED:
        raise ValueError(
            f"{model.path.name} is a {kind} artifact; only a quantized detector can be packed: {', '.join(QUANTIZED)}"
        )


def load_packed(folder: Path, *, profile: Profile | None = None) -> Quantized:
    """The detector of a packed folder, all its parts switched on.

    Args:
        folder: What ``export packed`` wrote.
        profile: Its model section must be that of the packed model; None takes what the folder says.

    Raises:
        DamagedArtifact: The folder is damaged, of a later version, or of another model.
    """
    try:
        content = read_packed(folder)
        own = content.config["qdbev"]
        quantized = built(own["structure"], profile=_profile_of(own, given=profile))
        state = unpacked_state(content.packed, like=quantized.detector.state_dict())
        load_strictly(quantized.detector, state=state, origin=str(folder))
    except (ValueError, KeyError, TypeError) as error:
        where = "" if isinstance(error, Unreadable) else f"{folder}: "
        raise DamagedArtifact(f"{where}{error}") from None
    quantized.switch_on(own["structure"]["parts"])
    return quantized


def differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that two state dicts do not both hold with the same type, shape and bits."""
    both = one.keys() & other.keys()
    alike = {name for name in both if one[name].dtype == other[name].dtype and torch.equal(one[name], other[name])}
    return sorted((one.keys() | other.keys()) - alike)


def _pack(job: Job, *, model: Artifact) -> Content:
    """Pack the detector of an artifact."""
    profile = job.profile
    quantized = load_quantized(model, profile=profile)
    if not quantized.complete:
        raise ValueError(f"{model.path.name} is still float in some parts; pack the last stage of its chain")
    count = len(quantized.detector.state_dict())

    def write(folder: Path) -> None:
        description = {
            "model": _structure(profile),
            "quantization": profile.quantization.content(),
            "structure": structure_of(quantized),
            "artifact": model.digest,
        }
        packed = packed_state(quantized.detector)
        architecture = profile.model.detector
        write_packed(folder, packed, plan=quantized.plan, architecture=architecture, description=description)
        _check(folder, quantized=quantized, profile=profile)

    return Content(
        write,
        parents={"model": model.digest},
        packages=package_versions(),
        message=f"read back: {count} tensors, equal to those of {model.path.name} bit for bit",
    )


def _check(folder: Path, *, quantized: Quantized, profile: Profile) -> None:
    """Read a folder back and compare all tensors with those that were packed.

    Raises:
        DamagedArtifact: Naming the first tensor that differs.
    """
    back = load_packed(folder, profile=profile).detector.state_dict()
    if wrong := differing(back, quantized.detector.state_dict()):
        raise DamagedArtifact(f"{len(wrong)} tensors came back otherwise than they were packed, first {wrong[0]}")


def _structure(profile: Profile) -> dict[str, Any]:
    return profile.model.content() | {"weights": None}


def _profile_of(own: Mapping[str, Any], *, given: Profile | None) -> Profile:
    """A profile with the sections that a packed folder states; a given one must have its model."""
    stated = own["model"]
    if given is not None and _structure(given) != stated:
        raise ValueError(f"it holds {stated['name']} with other numbers than {given.model.name} has here")
    model = given.model if given is not None else sealed_model(stated, circumstances={})
    return Profile(name="packed", model=model, quantization=QuantizationProfile.model_validate(own["quantization"]))
