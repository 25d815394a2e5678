"""Models in the store: the furthest one of a profile, and the profile that one was made with; no torch."""

from __future__ import annotations

from typing import Any

from pipelines.lineage.kinds import FLOAT, QUANTIZED
from pipelines.store.artifacts import Artifact, Store
from profiles import Profile
from profiles.sections.model import sealed_model
from profiles.sections.quantization import QuantizationProfile
from profiles.sections.rig import sealed_rig


def furthest(profile: Profile, *, store: Store) -> Artifact | None:
    """The artifact furthest along the chain that was made with this profile and model, or None."""
    for kind in QUANTIZED:
        if artifact := store.last(kind, profile=profile.name, model=profile.model.name):
            return artifact
    return None


def as_made(model: Artifact, *, profile: Profile) -> Profile:
    """The profile with the quantization that the model was made with, and with its own structure if it is another's.

    Raises:
        ValueError: It was made for other cameras or classes than the profile's data have.
    """
    stated = model.manifest.profile
    refuse_other_rig(model, profile=profile)
    stated_sections: dict[str, Any] = {}
    if model.manifest.kind != FLOAT:
        stated_sections["quantization"] = QuantizationProfile.model_validate(stated["quantization"])
    structure = stated["model"]
    assert isinstance(structure, dict)
    if structure["name"] != profile.model.name:
        circumstances = model.manifest.record.circumstances
        stated_sections["model"] = sealed_model(structure, circumstances=circumstances)
    return profile.model_copy(update=stated_sections)


def refuse_other_rig(model: Artifact, *, profile: Profile) -> None:
    """Refuse a model that was made for other cameras or classes than the profile's data have.

    Raises:
        ValueError: It was.
    """
    rig = sealed_rig(model.manifest.profile)
    if difference := rig.differs(profile.data.rig):
        raise ValueError(
            f"{model.path.name} was made for the rig {rig.name} with {difference} as data.rig {profile.data.rig.name} "
            "has; evaluate it on data of its own rig, or train it for this one"
        )
