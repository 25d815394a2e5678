"""Which documents a field of a document may hold, also where its content chooses one of several by a tag."""

from __future__ import annotations

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
