"""What a profile says of float weights and data, told without loading either; no torch."""

from __future__ import annotations

import hashlib

from pipelines.lineage.kinds import FLOAT
from pipelines.store.artifacts import Artifact, Store
from pipelines.store.locations import SYNTHETIC, ZOO, synthetic_root
from pipelines.store.naming import model_name
from profiles.home import expanded
from profiles.profile import Profile
from profiles.sections.data import DataProfile

_READING = 2  # raised where the same files give other samples; 2: the first CAN bus message later than a frame


def shipped_weights(model: str) -> Artifact | None:
    """The shipped float weights of a model, verified, or None."""
    return Store.zoo(ZOO).last(FLOAT, model=model)


def imported_weights(model: str, *, store: Store) -> Artifact | None:
    """The float weights of a model that were last taken from a file into a store, verified, or None."""
    for artifact in reversed(store.list()):
        manifest = artifact.manifest
        if manifest.kind == FLOAT and "imported_sha256" in manifest.data and model_name(manifest.profile) == model:
            return store.verify(artifact.path)
    return None


def stated_weights(profile: Profile, *, store: Store) -> str:
    """What says which float weights a profile means, without loading them: a digest, or a word."""
    source = profile.model.weights
    if source == "zoo" and (shipped := shipped_weights(profile.model.name)):
        return shipped.digest
    if source is None and (imported := imported_weights(profile.model.name, store=store)):
        return imported.digest
    if source is None or source in ("zoo", "random"):
        return str(source)
    path = expanded(source)
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else store.open(source).digest


def stated_data(data: DataProfile) -> str:
    """What says which data a profile means, without reading it: generator and settings, or the tables' files.

    Of synthetic scenes also how they are read: a compression that was sealed when frames were read otherwise is not the
    one that is asked for.
    """
    if data.source == SYNTHETIC:
        return f"{synthetic_root(data).name}, read {_READING}"
    tables = sorted((expanded(data.source) / data.version).glob("*.json"))
    states = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in tables]
    return f"{data.source} {states}"
