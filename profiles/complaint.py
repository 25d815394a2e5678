"""Pydantic's errors as sentences for the author of a profile: the field, what came, what is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ByteSize, ValidationError
from pydantic.fields import FieldInfo

from profiles.choices import Kinds, field_paths, kinds
from profiles.wording import did_you_mean, nearest, quoted

_NAMED = 3  # fields of the same name that are named


def complaints(error: ValidationError, *, root: type[BaseModel]) -> list[str]:
    """One sentence for each field that is wrong.

    Args:
        error: What pydantic raised while reading a document of type ``root``.
        root: The document type.

    Returns:
        Sentences without a full stop, such as ``quantization.weight_bits is 9; allowed: 2, 3, ..., 8, 32``.
    """
    sentences: dict[str, str] = {}
    for item in error.errors(include_url=False):
        place = _locate(item["loc"], root=root)
        if place.path not in sentences:
            sentences[place.path] = _sentence(place, root=root, item=dict(item))
    return list(sentences.values())


def unknown_field(path: str, *, root: type[BaseModel], parent: type[BaseModel], others: Kinds) -> str:
    """The sentence for a field that does not exist, with the nearest name that does.

    Args:
        path: Its dotted name.
        root: The whole document, whose other sections may have a field of that name.
        parent: The document that does not have it.
        others: Tag -> document of the union that ``parent`` is of; empty where it stands alone.
    """
    *sections, name = path.split(".")
    path = quoted(path)[1:-1]
    if owner := next((tag for tag, kind in others.items() if name in kind.model_fields), None):
        return f"{path} describes another detector: state detector: {owner} too"
    places = _places(name, root=root)
    if not places and (near := nearest(name, parent.model_fields) or nearest(name, _leaves(root))):
        places = [".".join([*sections, near])] if near in parent.model_fields else _places(near, root=root)
    if places:
        return f"{path} is not a field of a profile; did you mean {' or '.join(places[:_NAMED])}?"
    where = f"fields of {'.'.join(sections)}" if sections else "sections"
    return f"{path} is not a field of a profile ({where}: {', '.join(sorted(parent.model_fields))})"


def _places(name: str, *, root: type[BaseModel]) -> list[str]:
    """Dotted names of the fields called so, those of the model last."""
    paths = {path for path, _ in field_paths(root) if path.rpartition(".")[2] == name}
    return sorted(paths, key=lambda path: (path.startswith("model."), path.count("."), path))


def _leaves(root: type[BaseModel]) -> list[str]:
    return [path.rpartition(".")[2] for path, _ in field_paths(root)]


def allowed_values(annotation: Any) -> str:
    """What a field's type allows, in words: ``2, 3, 4``, ``true or false``, ``a number or auto``."""
    if get_origin(annotation) is Literal:
        return ", ".join(str(value) for value in get_args(annotation))
    if annotation is type(None):
        return "null"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    words[ByteSize] = "a number of bytes, such as 700000 or 36MB,"
    if annotation in words:
        return words[annotation]
    if get_origin(annotation) is tuple:
        items = get_args(annotation)
        if items[-1] is Ellipsis:
            return f"a list, each {allowed_values(items[0])}"
        return f"a list of {len(items)}, each {allowed_values(items[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"fields {', '.join(annotation.model_fields)}"
    if get_origin(annotation) is Annotated:
        return allowed_values(get_args(annotation)[0])
    if get_origin(annotation) is Union or get_args(annotation):
        return " or ".join(allowed_values(part) for part in get_args(annotation))
    return str(annotation)


class _Place(NamedTuple):
    """Where an error is: dotted path, the field there, its document, and the kinds that this one is chosen from."""

    path: str
    field: FieldInfo | None
    parent: type[BaseModel]
    others: Kinds


def _locate(loc: Sequence[int | str], *, root: type[BaseModel]) -> _Place:
    """The place of an error; branches of unions are left out, and tags choose the document."""
    path: list[str] = []
    field: FieldInfo | None = None
    parent, others, tag = root, Kinds(), ""
    for step in loc:
        if field is not None:
            known = kinds(field)
            if not known:
                continue
            if not tag and "" not in known:
                tag = str(step)
                continue
            parent, others, tag = known[tag], known, ""
        path.append(str(step))
        field = parent.model_fields.get(str(step))
        if field is None:
            break
    return _Place(".".join(path), field, parent, others)


def _sentence(place: _Place, *, root: type[BaseModel], item: dict[str, Any]) -> str:
    path, field = place.path, place.field
    if item["type"] == "extra_forbidden":
        return unknown_field(path, root=root, parent=place.parent, others=place.others)
    came = _shown(item["input"])
    if field is None:
        return item["msg"].removeprefix("Value error, ")
    if item["type"] == "union_tag_invalid":
        tag = str(field.discriminator)
        return f"{path}.{tag} is {_shown(item['input'][tag])}; allowed: {', '.join(kinds(field))}"
    if item["type"] == "value_error":
        reason = item["msg"].removeprefix("Value error, ")
        return f"{path}: {reason}" if isinstance(item["input"], dict) else f"{path} is {came}; {reason}"
    if item["type"].startswith(("greater_than", "less_than", "string_pattern", "too_", "finite")):
        return f"{path} is {came}; it {item['msg'].split(' ', 1)[1].replace('should', 'must')}"
    allowed = allowed_values(field.annotation)
    question = did_you_mean(str(item["input"]), allowed.split(", ")) if item["type"] == "literal_error" else ""
    return f"{path} is {came}; allowed: {allowed}{question}"


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "a mapping"
    return quoted(value)
