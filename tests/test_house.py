"""The house keeps its measures: full rooms, long files and functions, how many files know a thing, its drawing."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ("qdbev", "pipelines", "profiles", "qdbev_cli")
MODULES = sorted(path for package in PRODUCT for path in (ROOT / package).rglob("*.py"))

MODULES_IN_A_ROOM = 14  # but for the commands: one verb, one module
LINES_IN_A_FILE = 350
MEDIAN_LINES_OF_A_FUNCTION = 5
LONG_FUNCTION_LINES, LONG_FUNCTIONS_PERCENT = 20, 4.5


@cache
def trees() -> dict[str, ast.Module]:
    """What the product's modules say, by path."""
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}


class Thing(NamedTuple):
    """One thing that was added once: the words that name it in code, and how many files may know them."""

    kind: str
    words: frozenset[str]
    files: int
    folder: str
    """Its own, whose files are not counted."""


def thing(kind: str, *words: str, files: int, folder: str = "none") -> Thing:
    return Thing(kind, frozenset(words), files, folder)


# How many files of the product one adds or touches for one more of its kind; docs/architecture.md says which.
THINGS = (
    thing("observer", "entropy", "EntropyObserver", files=2),
    thing("observer", "moving_average", "MovingAverageObserver", files=2),
    thing("calibration method", "qdrop", files=2),
    thing("form of a range", "pact", "ClippingLevel", files=3),
    thing("form of a range", "learned_scale", "StepSize", files=3),
    thing("objective", "cwd_image", "image_channel_wise_loss", files=3),
    thing("objective", "fitnet_bev", "hint_loss", files=3),
    thing("objective", "output_class", "class_output_loss", files=3),
    thing("command", "import_weights", files=3),
    thing("native detector", "BevProfile", "build_bevformer", files=2, folder="qdbev/detectors/bevformer"),
    thing("native detector", "BEVDepthProfile", "build_bevdepth", files=2, folder="qdbev/detectors/bevdepth"),
    thing("native detector", "BEVDetProfile", "build_bevdet", files=2, folder="qdbev/detectors/bevdet"),
    thing("native detector", "ConfiguredProfile", "build_configured", files=2, folder="qdbev/detectors/configured"),
    thing("native detector", "PETRProfile", "build_petr", files=2, folder="qdbev/detectors/petr"),
    thing("native detector", "DETR3DProfile", "build_detr3d", files=2, folder="qdbev/detectors/detr3d"),
    thing("profile field", "training_rounding", files=3),
    thing("profile field", "pact_penalty", files=3),
    thing("profile field", "cache_teacher", files=3),
)


def function_lines(tree: ast.Module) -> list[int]:
    """Lines of the body of every function, method and nested function, from the first statement to the last.

    A docstring is no statement here. Blank lines and comments in between count; a body of a docstring alone does not.

    >>> function_lines(ast.parse("def f():\\n    'What.'\\n    # why\\n    a = 1\\n\\n    return a"))
    [3]
    """
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
            lines += [body[-1].end_lineno - body[0].lineno + 1] if body else []
    return lines


def words_of(tree: ast.Module) -> Iterator[str]:
    """All names in code and all words in its strings; docstrings and comments say nothing here."""
    texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        for field in ("id", "attr", "arg", "name", "module", "asname"):
            name = getattr(node, field, None)
            if isinstance(name, str):
                yield from name.split(".")
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts:
            yield from re.findall(r"\w+", node.value)


@pytest.fixture(scope="module")
def words_by_file() -> dict[str, frozenset[str]]:
    return {name: frozenset({Path(name).stem, *words_of(tree)}) for name, tree in trees().items()}


def test_measures_are_taken_as_they_say() -> None:
    tree = ast.parse('import a.b as c\ndef f(x: "T") -> None:\n    "gone"\n    x.y = z("in words")\n')
    assert set(words_of(tree)) == {"a", "b", "c", "f", "x", "T", "y", "z", "in", "words"}
    assert function_lines(tree) == [1]
    assert function_lines(
        ast.parse("class A:\n    def f(self):\n        'What.'\n\n        return (\n            1)\n")
    ) == [2]


def test_no_room_is_too_full() -> None:
    rooms: dict[str, int] = {}
    for name in trees():
        folder, _, module = name.rpartition("/")
        rooms[folder] = rooms.get(folder, 0) + (module != "__init__.py")
    full = {room: number for room, number in rooms.items() if number > MODULES_IN_A_ROOM}
    assert {room: number for room, number in full.items() if not room.endswith("/commands")} == {}


def test_no_file_is_too_long() -> None:
    lines = {name: len((ROOT / name).read_text(encoding="utf-8").splitlines()) for name in trees()}
    assert {name: number for name, number in lines.items() if number > LINES_IN_A_FILE} == {}


def test_functions_are_short() -> None:
    lines = [number for tree in trees().values() for number in function_lines(tree)]
    long_percent = 100 * sum(number > LONG_FUNCTION_LINES for number in lines) / len(lines)
    assert statistics.median(lines) <= MEDIAN_LINES_OF_A_FUNCTION
    assert round(long_percent, 1) <= LONG_FUNCTIONS_PERCENT


@pytest.mark.parametrize("added", THINGS, ids=lambda added: f"{added.kind}-{min(added.words)}")
def test_few_files_know_one_thing(added: Thing, words_by_file: dict[str, frozenset[str]]) -> None:
    outside = {name: words for name, words in words_by_file.items() if not name.startswith(f"{added.folder}/")}
    knowing = [name for name, words in outside.items() if added.words & words]
    assert 1 <= len(knowing) <= added.files, knowing


def test_the_drawing_is_what_the_imports_give() -> None:
    command = [sys.executable, ROOT / "scripts" / "draw_house.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def excerpts() -> list[tuple[str, str]]:
    """File and code of every example of docs/architecture.md; a line of three dots stands for what is left out."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n# (\S+)\n(.*?)```", page, flags=re.DOTALL)
    return [(name, code) for name, block in blocks for code in re.split(r"^\.\.\.\n", block, flags=re.MULTILINE)]


def test_nothing_is_drawn_beside_the_page() -> None:
    picture = (ROOT / "docs" / "images" / "house.svg").read_text(encoding="utf-8")
    width = float(re.findall(r'viewBox="0 0 (\d+)', picture)[0])
    boxes = re.findall(r'<rect x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', picture)
    assert len(boxes) > 50 and all(float(x) + float(wide) <= width for x, wide in boxes)


def test_the_examples_stand_in_the_tree() -> None:
    assert len(excerpts()) >= 10
    assert [(name, code) for name, code in excerpts() if code not in (ROOT / name).read_text(encoding="utf-8")] == []
