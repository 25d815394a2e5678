"""Which documents a field of a document may hold, also where its content chooses one of several by a tag."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

Kinds = dict[str, type[BaseModel]]


def kinds(field: FieldInfo) -> Kinds:
    """Tag -> document, in the order of their union; a lone document stands under an empty tag, a value gives none."""
    if isinstance(field.discriminator, str):
        union: tuple[type[BaseModel], ...] = get_args(field.annotation)
        return {str(kind.model_fields[field.discriminator].default): kind for kind in union}
    lone = field.annotation
    return {"": lone} if isinstance(lone, type) and issubclass(lone, BaseModel) else {}


def chosen(field: FieldInfo, *, content: Any) -> type[BaseModel]:
    """The document of a field that content chooses; that of the field's default where it says nothing, or nonsense."""
    tag = content.get(field.discriminator) if isinstance(content, dict) else None
    return kinds(field).get(str(tag), type(field.default))


def field_paths(document: type[BaseModel], *, above: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every single value below a document by its dotted name, in order; of a union those of each of its documents.

    Args:
        document: Such as the whole profile.
        above: Dotted name in front of its fields, with a dot at its end.
    """
    for name, field in document.model_fields.items():
        below = kinds(field)
        if not below:
            yield f"{above}{name}", field
        for inner in below.values():
            yield from field_paths(inner, above=f"{above}{name}.")
