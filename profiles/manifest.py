"""The manifest of an artifact: what it is, what it was made from, and the sha256 of everything in it."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from profiles.document import fingerprint

SCHEMA_VERSION = 1


class UnknownVersion(ValueError):
    """A manifest of a later version."""


class _Sheet(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class SealedFile(_Sheet):
    """One file of an artifact."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Its sha256."""
    bytes: int = Field(ge=0)
    """Its size."""


class Record(_Sheet):
    """How the making went: kept for the reader, outside the digest, so that a repeated run has the same digest."""

    created: str
    """Time of sealing, ISO 8601, UTC."""
    seconds: dict[str, float] = {}
    """Measured durations by name."""
    command: list[str] = []
    """The command line that made it."""
    circumstances: dict[str, JsonValue] = {}
    """Fields of the profile that change no result (device, cache folder, workers, ...) and the overrides as typed."""


class Manifest(_Sheet):
    """Everything known of an artifact."""

    schema_version: int = Field(default=SCHEMA_VERSION, ge=1, le=SCHEMA_VERSION)
    """Version of this document."""
    kind: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    """What it is: float, calibration, sensitivity, qat, vgd, evaluation, ..."""
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Profile and model, such as ``w4a6-nano``."""
    key: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Fingerprint of everything that decides the content: found again by it before the work is done."""
    profile: dict[str, JsonValue]
    """The profile as used, all fields that decide a result."""
    parents: dict[str, str] = {}
    """Digests of the artifacts it was made from, by role."""
    files: dict[str, SealedFile] = {}
    """Its files, by path inside the folder; the manifest itself is not among them."""
    data: dict[str, JsonValue] = {}
    """Digest of the data split, calibration sample tokens and the like."""
    seed: int = Field(default=0, ge=0)
    """Seed of the run."""
    packages: dict[str, str] = {}
    """Versions of the packages that made it."""
    metrics: dict[str, JsonValue] = {}
    """Numbers, nested freely; null where a number is undefined."""
    notes: list[str] = []
    """Sentences worth keeping."""
    record: Record
    """Times; outside the digest."""

    @property
    def digest(self) -> str:
        """The sha256 over all fields but ``record``: equal for equal content, whenever and wherever it was made."""
        return fingerprint(self.model_dump(mode="json", exclude={"record"}))

    def to_bytes(self) -> bytes:
        """The one spelling of this manifest as a file; any other byte in it is damage."""
        content = self.model_dump(mode="json") | {"digest": self.digest}
        content["seal"] = fingerprint(content)
        text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        return (text + "\n").encode("utf-8")

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Read what ``to_bytes`` wrote; the same bytes are checked once, so what is given is to be read only.

        Raises:
            ValueError: If it is not JSON, not this schema, or was changed in any byte since.
            UnknownVersion: If a later version wrote it.
        """
        return _checked(data)


@lru_cache(maxsize=512)
def _checked(data: bytes) -> Manifest:
    """The manifest that these bytes spell; every look through a store reads the same ones again."""
    content: Any = json.loads(data.decode("utf-8"))
    if not isinstance(content, dict):
        raise ValueError("it is not a JSON object")
    version = content.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise UnknownVersion(f"it has schema version {version}; this qdbev reads up to {SCHEMA_VERSION}")
    stated = {name: content.pop(name, None) for name in ("digest", "seal")}
    manifest = Manifest.model_validate(content)
    if stated["digest"] != manifest.digest:
        raise ValueError("its content does not match its own digest")
    if manifest.to_bytes() != data:
        raise ValueError("its bytes were changed after sealing")
    return manifest
