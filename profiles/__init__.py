"""WHAT is wanted: frozen pydantic documents and the YAML files they are read from; knows no torch."""

from .document import Document, ProfileError, fingerprint
from .loading import builtin_models, builtin_profiles, builtin_recipes, load
from .manifest import Manifest
from .profile import Profile

__all__ = [
    "Document",
    "Manifest",
    "Profile",
    "ProfileError",
    "builtin_models",
    "builtin_profiles",
    "builtin_recipes",
    "fingerprint",
    "load",
]
