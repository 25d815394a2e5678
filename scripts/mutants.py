"""Small wrong changes of source code, one at a time: what ``mutation_sample.py`` draws from.

Left alone: docstrings, annotations and aliases of types, text of errors, warnings, logs and help, prose, f-strings.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

COMPARISONS: dict[type, type] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
OPERATORS: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
REMOVABLE = (ast.Expr, ast.AugAssign, ast.Raise, ast.Delete, ast.Continue, ast.Break)
TELLING = {
    "print",
    "warn",
    "debug",
    "info",
    "warning",
    "error",
    "exception",
    "Literal",
    "TypeVar",
    "Option",
    "Argument",
}
PROSE_SPACES = 2  # a string of three words or more is text for people
TELLING_KEYWORDS = {"help", "description", "epilog", "rich_help_panel"}

Change = tuple["ast.stmt | ast.expr", str, str]
"""A node, the kind of the change, and the code that takes its place."""


@dataclass(frozen=True)
class Mutant:
    """One change of one file: the bytes from ``start`` to ``end`` give way to ``after``."""

    path: str
    line: int
    kind: str
    start: int
    end: int
    before: str
    after: str

    @property
    def key(self) -> str:
        """A name that stays while the place, the change and the text before it stay."""
        words = f"{self.path}:{self.start}:{self.kind}:{self.before}:{self.after}"
        return hashlib.sha256(words.encode()).hexdigest()[:12]

    def applied(self, source: bytes) -> bytes:
        """Return the source of the file with the change."""
        return source[: self.start] + self.after.encode() + source[self.end :]

    def compiles(self, source: bytes) -> bool:
        """Whether the changed file is Python, and another program than before."""
        try:
            changed = ast.dump(ast.parse(self.applied(source)))
        except (SyntaxError, ValueError):
            return False
        return changed != ast.dump(ast.parse(source))


def mutants_of(root: Path, path: str) -> list[Mutant]:
    """List every change of one file, in the order of the file."""
    source = (root / path).read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    mutants = set()
    for node, kind, after in _changes(ast.parse(source)):
        start = starts[node.lineno - 1] + node.col_offset
        end = starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
        before = source[start:end].decode()
        mutants.add(Mutant(path, node.lineno, kind, start, end, before=before, after=after))
    return sorted(mutants, key=lambda mutant: (mutant.start, mutant.end, mutant.kind, mutant.after))


def _changes(node: ast.AST) -> Iterator[Change]:
    """Walk a tree without what is only told or only typed."""
    if isinstance(node, ast.stmt):
        yield from _statements(node)
    elif isinstance(node, ast.expr):
        yield from _expressions(node)
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        defaults = [*node.args.defaults, *(default for default in node.args.kw_defaults if default is not None)]
        for default in defaults:
            yield from ((place, "default", after) for place, _, after in _changes(default))
        children: list[ast.AST] = [child for child in node.body if not _is_text(child)]
    else:
        children = list(_code_below(node))
    for child in children:
        yield from _changes(child)


def _code_below(node: ast.AST) -> Iterator[ast.AST]:
    """Children that are code that computes."""
    if isinstance(node, (ast.JoinedStr, ast.Raise, ast.Import, ast.ImportFrom, ast.Global, ast.Nonlocal)):
        return
    if isinstance(node, ast.Call) and _name(node.func) in TELLING:
        return
    if isinstance(node, ast.Subscript) and _name(node.value) in {"Literal", "Annotated"}:
        return
    if isinstance(node, ast.If) and _name(node.test) == "TYPE_CHECKING":
        return
    if isinstance(node, ast.Assign) and any(_name(target) == "__all__" for target in node.targets):
        return
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            told = isinstance(child, ast.keyword) and child.arg in TELLING_KEYWORDS
            typed = name in {"annotation", "returns", "decorator_list", "pattern", "targets", "target", "type_params"}
            if isinstance(child, ast.AST) and not told and not typed and not _is_text(child):
                yield child


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _name(node: ast.AST) -> str:
    return getattr(node, "id", getattr(node, "attr", ""))


def _statements(node: ast.stmt) -> Iterator[Change]:
    told = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and _name(node.value.func) in TELLING
    stored = isinstance(node, ast.Assign) and isinstance(node.targets[0], (ast.Attribute, ast.Subscript))
    if (isinstance(node, REMOVABLE) or stored) and not told and not _is_text(node):
        yield node, "statement removed", "pass"
    if isinstance(node, ast.Return) and node.value is not None and ast.unparse(node.value) != "None":
        yield node, "return None", "return None"
    if isinstance(node, ast.AugAssign) and type(node.op) in OPERATORS:
        changed = ast.AugAssign(node.target, OPERATORS[type(node.op)](), node.value)
        yield node, "operator", ast.unparse(changed)


def _expressions(node: ast.expr) -> Iterator[Change]:
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            flipped: list[ast.cmpop] = [*node.ops[:place], COMPARISONS[type(operator)](), *node.ops[place + 1 :]]
            yield node, "comparison", f"({ast.unparse(ast.Compare(node.left, flipped, node.comparators))})"
    elif isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        yield node, "operator", f"({ast.unparse(ast.BinOp(node.left, OPERATORS[type(node.op)](), node.right))})"
    elif isinstance(node, ast.BoolOp):
        swapped = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield node, "and/or", f"({ast.unparse(ast.BoolOp(swapped, node.values))})"
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        yield node, "not removed" if isinstance(node.op, ast.Not) else "sign removed", f"({ast.unparse(node.operand)})"
    elif isinstance(node, ast.Constant):
        yield from _constants(node)


def _constants(node: ast.Constant) -> Iterator[Change]:
    if isinstance(node.value, bool):
        yield node, "constant", repr(not node.value)
    elif isinstance(node.value, (int, float)):
        yield node, "constant", repr(node.value + 1)
    elif isinstance(node.value, str) and node.value and node.value.count(" ") < PROSE_SPACES:
        yield node, "constant", '""'
