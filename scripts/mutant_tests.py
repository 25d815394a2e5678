"""Which tests are likely to see a change of a module: its own, then those that import it, then those of its room."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

FOLDERS = {"qdbev": "tests", "pipelines": "tests/pipelines", "profiles": "tests/profiles", "qdbev_cli": "tests/cli"}


def stages_of(root: Path, path: str, *, whole_suite: bool) -> dict[str, list[str]]:
    """Give names of stages and the paths that pytest gets in each; no test file stands in two of them.

    Args:
        root: The folder of the project.
        path: The changed module, from there.
        whole_suite: Ends with every other test that is not slow.
    """
    stages = {
        "its own tests": [path, *_mirrors(root, path)],
        "tests that import it": _importers(root, path),
        "tests of its room": _room(root, path),
    }
    if whole_suite:
        stages["the suite"] = _tests(root)
    seen: set[str] = set()
    for name, paths in stages.items():
        stages[name] = [one for one in dict.fromkeys(paths) if one not in seen]
        seen.update(paths)
    return {name: paths for name, paths in stages.items() if paths}


@cache
def _tests(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in (root / "tests").rglob("test_*.py"))


def _mirrors(root: Path, path: str) -> list[str]:
    """``tests/quantization/grid/test_cpu*.py`` of ``qdbev/quantization/grid/cpu.py``; the folder of an ``__init__``."""
    package, _, rest = path.partition("/")
    folder, _, module = f"{FOLDERS[package]}/{rest}".rpartition("/")
    stem = "" if module == "__init__.py" else module.removesuffix(".py")
    folders = {folder, folder.replace("tests/cli/commands", "tests/cli")}
    return [test for test in _tests(root) for one in folders if Path(test).match(f"{one}/test_{stem}*.py")]


def _room(root: Path, path: str) -> list[str]:
    """The folder of the room; for ``pipelines`` the commands too, which walk through all of its rooms."""
    package, room = path.split("/")[:2]
    folders = [f"{FOLDERS[package]}/{room}/"] if not room.endswith(".py") else []
    folders += ["tests/pipelines/commands/"] if package == "pipelines" else []
    folders += [f"{FOLDERS[package]}/"] if package in ("profiles", "qdbev_cli") else []
    return [test for test in _tests(root) if test.startswith(tuple(folders))]


def _importers(root: Path, path: str) -> list[str]:
    module = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return [test for test in _tests(root) if module in _imports(root, test)]


@cache
def _imports(root: Path, test: str) -> frozenset[str]:
    """Modules that a test file imports, and names from them, which may be modules too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((root / test).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update((node.module, *(f"{node.module}.{alias.name}" for alias in node.names)))
    return frozenset(names)
