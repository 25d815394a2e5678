"""The modules of one's own that a config imports, and those import: their files decide what the detector is.

Nothing is imported to find them. What is installed as a package, or comes with Python, counts by its version elsewhere.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.machinery
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from profiles.yaml_text import read_yaml

_MOST_FILES = 500  # of one package; beyond them it is no plugin
_READ = frozenset((".py", ".so", ".pyd", ".json", ".yaml", ".yml", ".txt", ".csv", ".npy", ".npz"))
_CALLS = ("import_module", "__import__")


def module_digests(text: str, *, suffix: str) -> list[str]:
    """The sha256 of each module of one's own that a config imports, or that one of these imports, by name.

    Args:
        text: The config.
        suffix: Of its file; modules that a ``.py`` imports count, and in any those of ``custom_imports``.

    Raises:
        ValueError: A package that the config names has more files than a plugin would.
    """
    stated = set(_imported(ast.parse(text)) if suffix == ".py" else _listed(read_yaml(text, origin="config")))
    files: dict[str, list[Path]] = {}
    waiting = sorted(stated)
    while waiting:
        name = waiting.pop()
        if name not in files:
            files[name] = _own_files(name)
            waiting += [] if len(files[name]) > _MOST_FILES else _imported_by(files[name])
    return [f"{name} {_digest(name, files[name], stated=name in stated)}" for name in sorted(files) if files[name]]


def _listed(document: Any) -> list[str]:
    """Top-level names of the ``custom_imports`` of a config in YAML or JSON."""
    section = document.get("custom_imports") if isinstance(document, dict) else None
    names = section.get("imports") if isinstance(section, dict) else None
    listed = names if isinstance(names, list) else [names]
    return [name.partition(".")[0] for name in listed if isinstance(name, str)]


def _imported_by(files: list[Path]) -> set[str]:
    """Top-level names of what modules import; of one that cannot be read, nothing."""
    names: set[str] = set()
    for file in files:
        if file.suffix == ".py":
            with contextlib.suppress(SyntaxError, ValueError, OSError, RecursionError, MemoryError):
                names.update(_imported(ast.parse(file.read_bytes())))
    return names


def _imported(tree: ast.Module) -> Iterator[str]:
    """Top-level names of what a config imports, by statements and by ``custom_imports``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in _CALLS:
            yield from _custom(node.args[0] if node.args else node)
        elif isinstance(node, ast.Assign) and "custom_imports" in [getattr(name, "id", "") for name in node.targets]:
            yield from _custom(node.value)


def _custom(value: ast.expr) -> Iterator[str]:
    """The words of ``custom_imports = dict(imports=[...])``, whether a call or a literal, as top-level names."""
    for node in ast.walk(value):
        constant: Any = getattr(node, "value", None)
        if isinstance(node, ast.Constant) and isinstance(constant, str) and constant != "imports":
            yield constant.partition(".")[0]


def _own_files(name: str) -> list[Path]:
    """The files of a module or package that is neither Python's nor an installed one's; none where it is not found."""
    if not name.isidentifier() or name in sys.stdlib_module_names:
        return []
    spec = importlib.machinery.PathFinder.find_spec(name)
    if spec is None:
        return []
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    files = [file for folder in folders for file in sorted(folder.rglob("*")) if file.suffix in _READ]
    if not folders and spec.origin is not None:
        files = [Path(spec.origin)]
    return [file for file in files if not _is_installed(file)]


def _is_installed(file: Path) -> bool:
    places = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return any(file.is_relative_to(place) for place in places)


def _digest(name: str, files: list[Path], *, stated: bool) -> str:
    """The sha256 of files; of a large package that only others import, of their sizes and times."""
    if len(files) <= _MOST_FILES:
        parts = [f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files]
    elif stated:
        raise ValueError(f"the module {name} that it imports has {len(files)} files; import the one that is meant")
    else:
        states = [(file.name, file.stat()) for file in files]
        parts = [f"{file} {state.st_size} {state.st_mtime_ns}" for file, state in states]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
