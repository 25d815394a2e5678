"""Overrides: ``section.field=value`` words of the command line, laid over a profile's content."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from profiles.choices import Kinds, chosen, kinds
from profiles.complaint import unknown_field
from profiles.document import ProfileError
from profiles.profile import Profile
from profiles.wording import quoted
from profiles.yaml_text import read_yaml

_DEEPEST = 8  # names in the path of a field


def parse_override(word: str) -> tuple[tuple[str, ...], Any]:
    """Split ``section.field=value`` into the field's path and its value, read as YAML.

    Raises:
        ProfileError: If there is no ``=``, or no YAML behind it.

    >>> parse_override("quantization.weight_bits=4")
    (('quantization', 'weight_bits'), 4)
    >>> parse_override("qat.learning_rate=1e-4")
    (('qat', 'learning_rate'), 0.0001)
    """
    name, equals, text = word.partition("=")
    name = name.strip()
    if not equals or not name:
        raise ProfileError(f"--set takes section.field=value, such as quantization.weight_bits=4; got {quoted(word)}")
    path = tuple(name.split("."))
    if len(path) > _DEEPEST:
        raise ProfileError(f"{quoted(name)} is not a field of a profile; none lies deeper than {_DEEPEST} names")
    return path, read_yaml(text, origin=f"--set {quoted(name)[1:-1]}")


def apply_overrides(content: dict[str, Any], *, words: Iterable[str]) -> dict[str, Any]:
    """Content with each override laid over it; the later word wins, nothing given is changed in place.

    Raises:
        ProfileError: If a word is no override, names no field of what the content is then, or names a whole section.
    """
    parsed = [parse_override(word) for word in words]
    for path, value in parsed:
        for step in reversed(path):
            value = {step: value}
        content = overlay(content, value)
    for path, _ in parsed:
        _check_path(path, content=content)
    return content


def overlay(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """``above`` over ``below``: mappings merge, everything else is replaced.

    >>> overlay({"a": {"x": 1, "y": 2}, "b": 3}, {"a": {"x": 5}})
    {'a': {'x': 5, 'y': 2}, 'b': 3}
    """
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        if key == "rig" and isinstance(value, str):
            value = {"extends": value}  # so that single fields may be laid over a rig that is named
            under = None
        merged[key] = overlay(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged


def _check_path(path: tuple[str, ...], *, content: Any) -> None:
    document: type[BaseModel] = Profile
    others = Kinds()
    for depth, step in enumerate(path):
        name = ".".join(path[: depth + 1])
        if step not in document.model_fields or name == "overrides":
            raise ProfileError(unknown_field(name, root=Profile, parent=document, others=others))
        field, last = document.model_fields[step], depth == len(path) - 1
        others = kinds(field)
        if not last and not others:
            raise ProfileError(f"{name} is a single value; it has no field {path[depth + 1]}")
        if others:
            content = content.get(step) if isinstance(content, dict) else None
            document = chosen(field, content=content)
        if last and others and not getattr(document, "by_name", False):
            fields = ", ".join(document.model_fields)
            raise ProfileError(f"{name} is a section; set one of its fields: {fields}")
