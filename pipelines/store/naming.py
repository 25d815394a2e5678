"""Which artifact a word means, and which is the newest: read from manifests."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from profiles.manifest import Manifest

_SHORTEST_PREFIX = 4
_LONG_AGO = datetime.datetime.min.replace(tzinfo=datetime.UTC)
_SKEW = datetime.timedelta(seconds=5)  # of the clocks of machines that share a store


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


def moment(manifest: Manifest) -> datetime.datetime:
    """When an artifact was sealed; long ago where it states no time, or one that is still to come.

    A clock that was wrong once must not make an artifact the newest for ever.
    """
    try:
        stated = datetime.datetime.fromisoformat(manifest.record.created)
    except ValueError:
        return _LONG_AGO
    stated = stated if stated.tzinfo else stated.replace(tzinfo=datetime.UTC)
    return stated if stated <= datetime.datetime.now(datetime.UTC) + _SKEW else _LONG_AGO
