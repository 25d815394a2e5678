"""Words that nobody should type, drawn from a seed and a number: what ``fuzz_words.py`` runs."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, NamedTuple, get_args, get_origin

from pydantic import BaseModel

from profiles import Profile
from profiles.choices import kinds
from profiles.description import as_yaml
from profiles.loading import builtin_models, builtin_profiles, builtin_recipes, load

WORDS = [
    *("", " ", "null", "true", "~", "~nosuch", "~nosuch/x", ".", "..", "../../x", "/", "/dev/zero", "/dev/null"),
    *(
        "0",
        "-1",
        "1",
        "2",
        "3",
        "7",
        "1e-4",
        "1e400",
        "-1e400",
        ".nan",
        ".inf",
        "0x7fffffffffffffff",
        "9" * 30,
        "9" * 5000,
    ),
    *("[]", "[1]", "[1, 2]", "[1, 2, 3]", "[-1, 4]", "[1, [2]]", "{}", "{a: 1}", "{1: 2}", "[" * 100, "{a: " * 100),
    *(
        "auto",
        "vgd",
        "zoo",
        "random",
        "synthetic",
        "nano",
        "cuda:9",
        "cpu",
        "a,b",
        "w4a6",
        "size=0.1",
        "=",
        "a=b",
        "--x",
    ),
    *(
        "n" * 300,
        "n" * 5000,
        "a/b" * 200,
        "\x01",
        "\x1b[2J",
        "a\nb",
        "\ufeff",
        "\u202egnp",
        "é",
        "日本",
        "a\0b",
        "\ud800",
    ),
    *(
        "*a",
        "&a [*a]",
        "!!python/object/apply:os.system [x]",
        "!!binary aGk=",
        "!!set {a}",
        "2020-01-01",
        "1:30",
        "%",
        "'",
    ),
]
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(8)
)
COMMANDS: dict[str, tuple[str, ...]] = {
    "profiles show": ("NAME",),
    "profiles check": ("NAME",),
    "profiles list": (),
    "artifacts list": ("--store",),
    "artifacts show": ("REF", "--store"),
    "artifacts verify": ("REF", "--store"),
    "data synth": ("--scenes", "--train-scenes", "--val-scenes", "--size", "--sweeps", "--out"),
    "data prepare": ("--root", "--version"),
    "train-float": ("--continue",),
    "import-weights": ("REF", "--store"),
    "lint": ("NAME",),
    "calibrate": ("--method",),
    "sensitivity": ("--bits", "--level", "--plan", "--budget", "--candidates", "--criterion"),
    "qat-progressive": ("--stages",),
    "distill-vgd": ("--control",),
    "evaluate": ("REF",),
    "compress": ("--stages", "--plan NAME", "--controls"),
    "report": ("--format", "--paper"),
}
"""Command -> arguments and options of its own; those in capitals take a word."""
FLAGS = ("--continue", "--control", "--controls", "--paper", "--plan")


DEEP = (
    "compress",
    "calibrate",
    "sensitivity",
    "sensitivity --plan --budget size=0.1",
    "evaluate",
    "train-float",
    "report",
)
"""Commands whose dry run builds the detector, counts or looks into data."""
_CALM = 0.4  # share of cases


class Case(NamedTuple):
    """What is typed."""

    words: list[str]
    """Of the shell, without ``qdbev``."""
    files: dict[str, str]
    """Name -> text of the files they name."""


def case(seed: int, number: int) -> Case:
    """The case of a seed with a number."""
    draw = random.Random(f"{seed}/{number}")
    if draw.random() < _CALM:
        return _calm_case(draw)
    name = draw.choice([*COMMANDS])
    files: dict[str, str] = {}
    words = name.split()
    for option in COMMANDS[name]:
        if option.isupper():
            words.append(_reference(draw, files=files))
        elif draw.random() < 0.4:
            words += [option.partition(" ")[0]] if option in FLAGS else [option.partition(" ")[0], draw.choice(WORDS)]
    if name.startswith("artifacts") or name == "profiles list":
        return Case(words, files)
    if not name.startswith("profiles"):
        words += ["--dry-run"]
        if draw.random() < 0.6:
            words += ["--profile", _reference(draw, files=files)]
    for _ in range(draw.choice([0, 1, 1, 1, 2, 3])):
        words += ["--set", _override(draw)]
    for option, choices in (("--model", [*builtin_models()]), ("--recipe", [*builtin_recipes()])):
        if draw.random() < 0.2:
            words += [option, draw.choice([*choices, draw.choice(WORDS), _reference(draw, files=files)])]
    for option in ("--seed", "--device"):
        if draw.random() < 0.1:
            words += [option, draw.choice(WORDS)]
    return Case([*words, "--json"] if draw.random() < 0.2 else words, files)


def _calm_case(draw: random.Random) -> Case:
    """A dry run with fields of the right type, which get further than others do."""
    words = draw.choice(DEEP).split()
    words += ["--dry-run", "--profile", draw.choice([*builtin_profiles()])]
    for _ in range(draw.choice([1, 1, 2])):
        path, annotation = draw.choice(FIELDS)
        words += ["--set", f"{path}={_right_value(draw, annotation=annotation)}"]
    return Case(words, {})


def _reference(draw: random.Random, *, files: dict[str, str]) -> str:
    """The name of a profile, a file of its own, or anything."""
    kind = draw.random()
    if kind < 0.3:
        return draw.choice([*builtin_profiles()])
    if kind < 0.45:
        return draw.choice(WORDS)
    name = f"case{len(files)}.yaml"
    files[name] = _text(draw)
    return name


def _text(draw: random.Random) -> str:
    """A profile's text: of fields that may be wrong, or a whole right one with a few characters changed."""
    kind = draw.random()
    if kind < 0.05:
        return BOMB
    if kind < 0.5:
        text = as_yaml(load(draw.choice([*builtin_profiles()])))
        for _ in range(draw.choice([1, 1, 2, 5])):
            place, length = draw.randrange(len(text)), draw.choice([0, 1, 1, 5, 80])
            text = text[:place] + draw.choice([*WORDS, *":-[]{}#\t\n"]) + text[place + length :]
        return text
    lines = []
    for path, _ in draw.sample(FIELDS, draw.choice([1, 2, 3, 5])):
        *sections, name = path.split(".")
        lines.append("{".join([*(f"{step}: " for step in sections), f"{name}: {_value(draw)}"]) + "}" * len(sections))
    if draw.random() < 0.2:
        lines.append(f"extends: {draw.choice(['w4a6', 'case0', *WORDS])}")
    return "\n".join(lines)


def _override(draw: random.Random) -> str:
    if draw.random() < 0.1:
        return draw.choice(WORDS)
    path, annotation = draw.choice(FIELDS)
    if draw.random() < 0.1:
        path = path.replace(".", draw.choice(["..", "", ".x."]), 1) or path[:-1]
    return f"{path}={_right_value(draw, annotation=annotation) if draw.random() < 0.6 else _value(draw)}"


def _value(draw: random.Random) -> str:
    return draw.choice([draw.choice(WORDS), str(draw.randint(-5, 2000)), str(draw.uniform(-2, 200))])


def _right_value(draw: random.Random, *, annotation: Any) -> str:
    """A value of a field's type, of a size that may be wrong."""
    options = get_args(annotation)
    if annotation is bool:
        return draw.choice(["true", "false"])
    if annotation is int:
        return str(draw.choice([0, 1, 2, 3, 8, 50, 1000, 10**6, 10**12]))
    if annotation is float:
        return str(draw.choice([0.0, 1e-9, 0.001, 0.5, 1.0, 3.7, 1e9]))
    if get_origin(annotation) is tuple:
        count = draw.choice([1, 2, 3, 4]) if options[-1] is Ellipsis else len(options)
        return f"[{', '.join(_right_value(draw, annotation=options[0]) for _ in range(count))}]"
    literal = [str(option).lower() for option in options if isinstance(option, str | int)]
    return draw.choice([*literal, "null"]) if literal else _value(draw)


def _fields(document: type[BaseModel], *, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in document.model_fields.items():
        inner = kinds(field)
        for kind in inner.values():
            yield from _fields(kind, path=f"{path}{name}.")
        if not inner:
            yield f"{path}{name}", field.annotation


FIELDS = [*_fields(Profile)]
