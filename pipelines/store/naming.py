"""Which artifact a word means: read from manifests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from profiles.manifest import Manifest

_SHORTEST_PREFIX = 4


def answers_to(manifest: Manifest, text: str) -> bool:
    """Whether an artifact is meant by the start of its digest or key, or by ``kind:name``."""
    kind, colon, name = text.partition(":")
    if colon:
        return (manifest.kind, manifest.name) == (kind, name)
    if len(text) < _SHORTEST_PREFIX:
        return False
    return manifest.digest.startswith(text) or manifest.key.startswith(text)


def model_name(profile: Mapping[str, Any]) -> object:
    """The model's name in the profile of a manifest, or None."""
    model = profile.get("model")
    return model.get("name") if isinstance(model, dict) else None
