"""A profile as YAML in which every field carries its docstring: what ``qdbev profiles show`` and the docs print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from profiles.document import Document

_HIDDEN = frozenset({"overrides"})


def as_yaml(document: Document, *, indent: int = 0) -> str:
    """A document as YAML that loads back to the same document, a comment with the meaning behind every value."""
    lines = []
    fields = type(document).model_fields
    width = max(len(f"{name}: {_spelled(getattr(document, name))}") for name in fields)
    for name, field in fields.items():
        value = getattr(document, name)
        if name in _HIDDEN:
            continue
        meaning = " ".join((field.description or "").split())
        if isinstance(value, Document):
            lines += [f"{' ' * indent}{name}:  # {meaning}", as_yaml(value, indent=indent + 2)]
        else:
            lines.append(f"{' ' * indent}{f'{name}: {_spelled(value)}':<{min(width, 40)}}  # {meaning}")
    return "\n".join(lines)


def headline(path: Path) -> str:
    """The first comment line of a YAML file: what the profile is."""
    with path.open(encoding="utf-8") as file:
        return file.readline().lstrip("# ").rstrip()


def _spelled(value: Any) -> str:
    """JSON, which is YAML, without quotes around plain words."""
    if isinstance(value, Document):
        return ""
    if isinstance(value, str) and value.replace("_", "").isalpha() and value not in ("true", "false", "null"):
        return value
    return json.dumps(value, ensure_ascii=False, default=lambda document: document.model_dump(mode="json"))
