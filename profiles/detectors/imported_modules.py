"""The modules of one's own that a config imports: their files decide what the detector is, as the config does.

Nothing is imported to find them. What is installed as a package, or comes with Python, counts by its version elsewhere.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.machinery
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_MOST_FILES = 500  # of one package; beyond them it is no plugin


def module_digests(text: str, *, suffix: str) -> list[str]:
    """The sha256 of each module of one's own that a config imports, by name.

    Args:
        text: The config.
        suffix: Of its file; modules that a ``.py`` imports count, and in any those of ``custom_imports``.

    Raises:
        ValueError: A package has more files than a plugin would.
    """
    names = _imported(ast.parse(text)) if suffix == ".py" else []
    return [f"{name} {_digest(name, files)}" for name in sorted(set(names)) if (files := _own_files(name))]


def _imported(tree: ast.Module) -> Iterator[str]:
    """Top-level names of what a config imports, by statements and by ``custom_imports``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.partition(".")[0]
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
    files = [file for folder in folders for file in sorted(folder.rglob("*.py"))]
    if not folders and spec.origin is not None:
        files = [Path(spec.origin)]
    return [file for file in files if not _is_installed(file)]


def _is_installed(file: Path) -> bool:
    places = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return any(file.is_relative_to(place) for place in places)


def _digest(name: str, files: list[Path]) -> str:
    if len(files) > _MOST_FILES:
        raise ValueError(f"the module {name} that it imports has {len(files)} files; import the one that is meant")
    parts = [f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}" for file in files]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
