"""The frozen pydantic document every profile section is, and the fingerprint of its content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, model_validator

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
"""Names that become names of folders: nothing in them leads out of the folder they lie in."""
LONGEST_NAME = 100
"""Of a profile or a model: both together and a key stand in one name of a folder, which has at most 255 characters."""


class ProfileError(ValueError):
    """A profile that cannot be read: the message is one sentence per wrong field, written for its author."""


class Document(BaseModel):
    """A section of a profile: frozen, no unknown field, the docstring under a field is its help."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False, protected_namespaces=()
    )

    outside_digest: ClassVar[frozenset[str]] = frozenset()
    """Fields that say where or how fast, not what: they change no result and stay out of the digest."""

    later: ClassVar[frozenset[str]] = frozenset()
    """Fields that came after artifacts had been made. Their default, which stays for good, is what was done before; at
    it they stay out of the digest, so that those artifacts are still found."""

    @model_validator(mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, content: Any) -> Any:
        """Refuse true and false for a number, where they would be 1 and 0: YAML reads yes, no, on and off so."""
        for name, value in content.items() if isinstance(content, dict) else ():
            items = value if isinstance(value, list | tuple) else [value]
            if name in cls.model_fields and any(isinstance(item, bool) for item in items):
                kinds = set(_parts(cls.model_fields[name].annotation))
                if kinds & {int, float} and bool not in kinds:
                    raise ValueError(f"{name} is {str(value).lower()}, and takes numbers")
        return content

    read_where: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]] = {}
    """Fields that are read only where another field of the section has one of some values: they are refused elsewhere,
    unless they have their default."""

    def content(self) -> dict[str, Any]:
        """The fields that decide a result, as plain JSON values (nested sections included)."""
        names = [name for name in type(self).model_fields if name not in self.outside_digest]
        values = {name: getattr(self, name) for name in names if name not in self.later or not self._as_before(name)}
        plain = self.model_dump(mode="json", include=set(values))
        nested = {name: value.content() for name, value in values.items() if isinstance(value, Document)}
        return plain | nested

    def circumstances(self) -> dict[str, Any]:
        """The other fields, by dotted name: where and how fast, for the reader of a manifest."""
        plain = self.model_dump(mode="json", include=set(self.outside_digest))
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Document):
                plain |= {f"{name}.{inner}": one for inner, one in value.circumstances().items()}
        return plain

    def _as_before(self, name: str) -> bool:
        value, default = getattr(self, name), type(self).model_fields[name].default
        return bool(value.content() == default.content() if isinstance(value, Document) else value == default)


def _parts(annotation: Any) -> Iterator[Any]:
    """A type and all that it is made of."""
    yield annotation
    for inner in get_args(annotation):
        yield from _parts(inner)


def fingerprint(content: Any) -> str:
    """The sha256 of ``content`` written as canonical JSON (sorted keys, no spaces, UTF-8).

    Args:
        content: Anything of dicts, lists, strings, numbers, booleans and None.

    Returns:
        64 hexadecimal digits; equal content gives an equal fingerprint, on any machine and in any key order.

    Raises:
        ValueError: If a number is NaN or infinite, which JSON cannot write.

    >>> fingerprint({"b": 1, "a": [2.5]}) == fingerprint({"a": [2.5], "b": 1})
    True
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
