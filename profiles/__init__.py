"""WHAT is wanted: frozen pydantic documents and the YAML files they are read from; knows no torch."""

from __future__ import annotations

from profiles.document import Document, ProfileError, fingerprint
from profiles.loading import builtin_models, builtin_profiles, builtin_recipes, kind_of, load
from profiles.manifest import Manifest
from profiles.profile import Profile

__all__ = [
    "Document",
    "Manifest",
    "Profile",
    "ProfileError",
    "builtin_models",
    "builtin_profiles",
    "builtin_recipes",
    "fingerprint",
    "kind_of",
    "load",
]
