"""The digest of an mmengine config: its file, those it is based on, modules it imports; read as text, never run."""

from __future__ import annotations

import ast
import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from profiles.detectors.imported_modules import module_digests
from profiles.wording import quoted
from profiles.yaml_text import read_yaml

_MOST_FILES = 200  # in a chain of bases


def config_digest(path: Path) -> str:
    """The sha256 over a config file, the files of its chain of ``_base_``, and modules of one's own that they import.

    Args:
        path: A ``.py``, ``.yaml``, ``.yml`` or ``.json`` file. A base named by package (``mmdet3d::...``) or imported
            from one counts by its name alone.

    Raises:
        ValueError: A file of the chain is missing, or its bases cannot be told.
    """
    digests = list(itertools.islice(_digests(path, seen=()), _MOST_FILES + 1))
    if len(digests) > _MOST_FILES:
        raise ValueError(f"the config {path} is based on more than {_MOST_FILES} files, repeated ones counted")
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _digests(path: Path, *, seen: tuple[Path, ...]) -> Iterator[str]:
    if path in seen:
        raise ValueError(f"the config {path} is based on itself")
    if path.exists() and not path.is_file():
        raise ValueError(f"the config {path} is no file; name the file of a config")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"the config {path} cannot be read: {error.strerror}; name the file of a config") from None
    yield hashlib.sha256(content).hexdigest()
    try:
        text = content.decode("utf-8")
        bases = list(_bases(text, path=path))
        yield from module_digests(text, suffix=path.suffix)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:  # MemoryError: too deep for ast
        raise ValueError(f"the bases of the config {path} cannot be told: {error}") from None
    for base in bases:
        yield from _digests(base.resolve(), seen=(*seen, path))


def _bases(text: str, *, path: Path) -> Iterator[Path]:
    """Files named by ``_base_ = ...``, or imported relatively as mmengine's newer configs do."""
    if path.suffix != ".py":
        document = read_yaml(text, origin=path.name)
        yield from _named(document.get("_base_", ()) if isinstance(document, dict) else (), folder=path.parent)
        return
    for statement in ast.walk(ast.parse(text)):
        if isinstance(statement, ast.Assign) and "_base_" in [getattr(one, "id", "") for one in statement.targets]:
            yield from _named(ast.literal_eval(statement.value), folder=path.parent)
        elif isinstance(statement, ast.ImportFrom) and statement.level and statement.module:
            folder = path.parents[statement.level - 1]
            yield folder.joinpath(*statement.module.split(".")).with_suffix(".py")


def _named(bases: Any, *, folder: Path) -> Iterator[Path]:
    for base in [bases] if isinstance(bases, str) else bases:
        if not isinstance(base, str):
            raise ValueError(f"a base is {quoted(base)}; it must be a path")
        if "::" not in base:
            yield folder / base
