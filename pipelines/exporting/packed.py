"""The packed export of a quantized detector: sealed once it was read back and found equal, bit for bit.

The law compares with the artifact's ``model.safetensors``, which is what ``evaluate`` scores: there the rest lies in
float16 already, so that halving it again changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.assembly.job import Job
from pipelines.assembly.quantized import Quantized, built, load_quantized, structure_of
from pipelines.assembly.strict_loading import load_strictly
from pipelines.assembly.weights import package_versions
from pipelines.exporting.provenance import calibrated_on, licence_of, scored, scored_links
from pipelines.lineage.bit_plan import bits_label
from pipelines.lineage.chain import Link
from pipelines.lineage.keys import export_key
from pipelines.lineage.kinds import PACKED, QUANTIZED
from pipelines.store.artifacts import Artifact, DamagedArtifact
from pipelines.store.making import Content, Made, made
from profiles import Profile
from profiles.sections.model import sealed_model
from profiles.sections.quantization import QuantizationProfile
from profiles.wording import counted
from qdbev.export.packed import (
    CARD,
    CONFIG,
    FORMAT_VERSION,
    WEIGHTS,
    Unreadable,
    model_card,
    packed_state,
    read_packed,
    sizes_of_state,
    unpacked_state,
    write_packed,
)


def packed_export(job: Job, *, model: Artifact, base_model: str | None = None) -> Made:
    """The sealed packed export of a model artifact, made where it is missing.

    Args:
        job: Its profile is the one that the model was made with.
        model: A quantized detector, all parts of which are.
        base_model: What hubs call the float model; None takes the name of the model.

    Raises:
        ValueError: The artifact holds no detector all parts of which are quantized.
    """
    refuse_unpackable(model)
    links = scored_links(model, store=job.store)
    evaluations = [link.evaluation.digest for link in links if link.evaluation]
    base = base_model or job.profile.model.name
    stated = {"format_version": FORMAT_VERSION, "evaluations": evaluations, "base_model": base}
    key = export_key(PACKED, model=model.digest, settings=stated)
    make = partial(_pack, job, model=model, links=links, base_model=base)
    return made(job, PACKED, key=key, make=make, known="packed before; --force does it again")


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


def _pack(job: Job, *, model: Artifact, links: Sequence[Link], base_model: str) -> Content:
    """Pack the detector of an artifact."""
    profile = job.profile
    quantized = load_quantized(model, profile=profile)
    if not quantized.complete:
        raise ValueError(f"{model.path.name} is still float in some parts; pack the last stage of its chain")
    packed = packed_state(quantized.detector)
    sizes = sizes_of_state(packed, plan=quantized.plan)
    parents = {"model": model.digest} | {role: evaluation.digest for role, evaluation in _evaluations(links)}

    def write(folder: Path) -> None:
        description = {
            "model": _structure(profile),
            "quantization": profile.quantization.content(),
            "structure": structure_of(quantized),
            "artifact": model.digest,
        }
        architecture = profile.model.detector
        write_packed(folder, packed, plan=quantized.plan, architecture=architecture, description=description)
        check_packed(folder, quantized=quantized, profile=profile)
        (folder / CARD).write_text(_card(folder, job=job, model=model, links=links, base=base_model), encoding="utf-8")

    return Content(
        write,
        parents=parents,
        data={"calibration_tokens": calibrated_on(model, store=job.store)},
        metrics={
            "bytes": {part: sum(kinds.values()) for part, kinds in sizes.parts.items()},
            "pointwise_share_of_bytes": sizes.pointwise_share,
            "pointwise_share_of_macs": model.manifest.metrics.get("pointwise_share_of_macs"),
        },
        packages=package_versions(),
        message=f"read back: {_says_equal(quantized, name=model.path.name)}",
    )


def _evaluations(links: Sequence[Link]) -> Iterator[tuple[str, Artifact]]:
    for role, link in zip(("evaluation", "float evaluation"), links, strict=False):
        if link.evaluation is not None:
            yield role, link.evaluation


def _card(folder: Path, *, job: Job, model: Artifact, links: Sequence[Link], base: str) -> str:
    files = {name: (folder / name).stat().st_size for name in (WEIGHTS, CONFIG)}
    return model_card(
        model.manifest.name,
        architecture=job.profile.model.detector,
        base_model=base,
        licence=licence_of(model, store=job.store),
        bits=bits_label(model),
        files=files,
        origin={f"artifact {model.path.name}": model.digest} | dict(model.manifest.parents),
        scored=scored(links),
    )


def _says_equal(quantized: Quantized, *, name: str) -> str:
    """The words about an export that is equal."""
    count = len(quantized.detector.state_dict())
    return f"{counted(count, 'tensor')}, equal to those of {name} bit for bit"


def same_as(folder: Path, *, job: Job, model: Artifact) -> str:
    """Compare a packed folder with an artifact, and say so.

    Args:
        folder: What ``export packed`` wrote, here or elsewhere.
        job: Its profile is the one that the model was made with.
        model: The artifact.

    Raises:
        ValueError: The artifact holds no quantized detector.
        DamagedArtifact: The folder is damaged, or holds other tensors.
    """
    refuse_unpackable(model)
    quantized = load_quantized(model, profile=job.profile)
    check_packed(folder, quantized=quantized, profile=job.profile)
    return _says_equal(quantized, name=model.path.name)


def check_packed(folder: Path, *, quantized: Quantized, profile: Profile) -> None:
    """Read a folder and compare all tensors with those of a detector.

    Raises:
        DamagedArtifact: Naming the first tensor that differs.
    """
    back = load_packed(folder, profile=profile).detector.state_dict()
    if wrong := differing(back, quantized.detector.state_dict()):
        raise DamagedArtifact(
            f"{folder} holds {counted(len(wrong), 'tensor')} that are not those of the model, first {wrong[0]}"
        )


def _structure(profile: Profile) -> dict[str, Any]:
    return profile.model.content() | {"weights": None}


def _profile_of(own: Mapping[str, Any], *, given: Profile | None) -> Profile:
    """A profile with the sections that a packed folder states; a given one must have its model."""
    stated = own["model"]
    if given is not None and _structure(given) != stated:
        raise ValueError(f"it holds {stated['name']} with other numbers than {given.model.name} has here")
    model = given.model if given is not None else sealed_model(stated, circumstances={})
    return Profile(name="packed", model=model, quantization=QuantizationProfile.model_validate(own["quantization"]))
