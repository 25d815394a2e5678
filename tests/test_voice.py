"""One voice where ruff cannot hear it: how modules open, how docstrings write code, how ``Args:`` begin.

Ruff itself asks for ``from __future__ import annotations`` and for absolute imports (``pyproject.toml``).
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ("qdbev", "pipelines", "profiles", "qdbev_cli")
MODULES = sorted(path for package in PRODUCT for path in (ROOT / package).rglob("*.py"))
CODE_IN_SINGLE_BACKTICKS = re.compile(r"(?<!`)`[^`]+`(?!`)")
# An entry of ``Args:`` that opens with a plain word in small letters; symbols (``x, y``, ``n``) stay as they are.
SMALL_ENTRY = re.compile(
    r"^ {4}\*{0,2}\w+(?:, \*{0,2}\w+)*(?: \([^)]*\))?: (?!ego2global)([a-z]{2,}\b.*|a .*)$", re.MULTILINE
)


@cache
def trees() -> dict[str, ast.Module]:
    """What the product's modules say, by path."""
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}


def docstrings(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Name and docstring of the module and of all it defines."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node)
            if text is not None:
                yield getattr(node, "name", "the module"), text


def single_backticks(text: str) -> list[str]:
    """What a docstring writes in single backticks, outside double ones.

    >>> single_backticks("``x`` and `y`")
    ['`y`']
    """
    return CODE_IN_SINGLE_BACKTICKS.findall(re.sub(r"``.*?``", "", text, flags=re.DOTALL))


def small_entries(text: str) -> list[str]:
    """Entries of ``Args:`` that open with a small letter."""
    section = re.search(r"^Args:\n((?:    .*\n?|\n)*)", text, flags=re.MULTILINE)
    return SMALL_ENTRY.findall(section.group(1)) if section else []


def test_the_rules_hear_what_they_are_for() -> None:
    text = inspect.cleandoc(
        """Weigh `x`.

        Args:
            x: real values.
            bits: Bits.
            y, z (optional): a pair,
                see below: nothing.
            n: n rows.

        Returns:
            x: small.
        """
    )
    assert single_backticks(text) == ["`x`"]
    assert small_entries(text) == ["real values.", "a pair,"]


def test_modules_open_with_what_they_are() -> None:
    """A docstring whose first line says what the file is."""
    assert [name for name, tree in trees().items() if not (ast.get_docstring(tree) or "").strip()] == []


def test_code_in_docstrings_stands_in_double_backticks() -> None:
    faults = [
        f"{name}, {owner}: {code}"
        for name in trees()
        for owner, text in docstrings(trees()[name])
        for code in single_backticks(text)
    ]
    assert faults == []


def test_entries_of_args_start_with_a_capital() -> None:
    faults = [
        f"{name}, {owner}: {entry}"
        for name in trees()
        for owner, text in docstrings(trees()[name])
        for entry in small_entries(text)
    ]
    assert faults == []
