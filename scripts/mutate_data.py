"""Damage a data set in one place, many times, and see what `qdbev evaluate` does: each is right, or refused by name.

    qdbev data synth --out SCENES --train-scenes 2 --val-scenes 1 --set data.key_frames=4
    python scripts/mutate_data.py --root SCENES --count 100 --seed 0

A mutation takes any field of any row of any table, or of the CAN messages: missing, null, NaN, negative, huge, of
another type, swapped with another row, repeated, cut. Ends with 1 where a command ended with 1, took too long, or
predicted before it refused; scores that differ from the sound data's are listed, for a person to judge.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from qdbev.data.nuscenes.tables import TABLES

VERSION = "v1.0-trainval"
SCENE = "scene-0003"
LIMIT_S = 60.0
OPTIONS = ("data.train_scenes=1", "data.val_scenes=1", "evaluation.max_boxes=50", "model.weights=zoo")

Rows = list[dict[str, Any]]


class Outcome(NamedTuple):
    """What came of one mutation."""

    what: str
    code: int
    seconds: float
    score: float | None
    sentence: str
    predicted: bool


def _missing(row: dict[str, Any], field: str, rows: Rows, draw: random.Random) -> None:
    del row[field]


def _swapped(row: dict[str, Any], field: str, rows: Rows, draw: random.Random) -> None:
    other = draw.choice([other for other in rows if field in other])
    row[field], other[field] = other[field], row[field]


def _repeated(row: dict[str, Any], field: str, rows: Rows, draw: random.Random) -> None:
    rows.insert(draw.randrange(len(rows) + 1), dict(row))


def _removed(row: dict[str, Any], field: str, rows: Rows, draw: random.Random) -> None:
    rows.remove(row)


def _value(change: Callable[[Any], Any]) -> Callable[[dict[str, Any], str, Rows, random.Random], None]:
    def mutate(row: dict[str, Any], field: str, rows: Rows, draw: random.Random) -> None:
        row[field] = change(row[field])

    return mutate


def _negative(value: Any) -> Any:
    if isinstance(value, list):
        return [_negative(item) for item in value]
    return -value if isinstance(value, int | float) and not isinstance(value, bool) else "-" + str(value)


def _nan(value: Any) -> Any:
    return [_nan(value[0]), *value[1:]] if isinstance(value, list) and value else float("nan")


def _huge(value: Any) -> Any:
    return [_huge(value[0]), *value[1:]] if isinstance(value, list) and value else 10**400


def _shorter(value: Any) -> Any:
    return value[:-1] if isinstance(value, list | str) else 0


MUTATIONS: dict[str, Callable[[dict[str, Any], str, Rows, random.Random], None]] = {
    "missing": _missing,
    "null": _value(lambda value: None),
    "NaN": _value(_nan),
    "negative": _value(_negative),
    "huge": _value(_huge),
    "another type": _value(lambda value: {"was": value}),
    "a text": _value(str),
    "shorter": _value(_shorter),
    "swapped": _swapped,
    "repeated": _repeated,
    "removed": _removed,
}


def linked_copy(source: Path, *, target: Path) -> Path:
    """A copy of the tables and CAN messages; images and maps are links."""
    shutil.copytree(source / VERSION, target / VERSION)
    shutil.copytree(source / "can_bus", target / "can_bus")
    for name in ("samples", "maps"):
        (target / name).symlink_to((source / name).resolve())
    return target


def _in_use(root: Path, name: str, rows: Rows) -> Rows:
    """The rows of the scene that is evaluated."""
    tables = {name: json.loads((root / VERSION / f"{name}.json").read_text()) for name in TABLES}
    scene = next(row["token"] for row in tables["scene"] if row["name"] == SCENE)
    samples = {row["token"] for row in tables["sample"] if row["scene_token"] == scene}
    data = [row for row in tables["sample_data"] if row["sample_token"] in samples]
    boxes = [row for row in tables["sample_annotation"] if row["sample_token"] in samples]
    tokens = {
        "scene": {scene},
        "sample": samples,
        "sample_data": {row["token"] for row in data},
        "sample_annotation": {row["token"] for row in boxes},
        "ego_pose": {row["ego_pose_token"] for row in data},
        "calibrated_sensor": {row["calibrated_sensor_token"] for row in data},
        "instance": {row["instance_token"] for row in boxes},
    }
    return [row for row in rows if row.get("token") in tokens.get(name, ())]


def mutate(root: Path, *, seed: int) -> str:
    """Change one place of a copied data set; what and where, in words."""
    draw = random.Random(seed)
    path = draw.choice(
        [root / VERSION / f"{name}.json" for name in TABLES] + [root / "can_bus" / f"{SCENE}_pose.json"] * 2
    )
    text = path.read_text()
    if draw.random() < 0.05:
        path.write_text(text[: draw.randrange(len(text))])
        return f"{path.stem}: cut"
    rows = json.loads(text)
    row = draw.choice(_in_use(root, path.stem, rows) or rows if draw.random() < 0.7 else rows)
    field, name = draw.choice(list(row)), draw.choice(list(MUTATIONS))
    MUTATIONS[name](row, field, rows, draw)
    path.write_text(json.dumps(rows))
    return f"{path.stem}.{field}: {name}"


def evaluate(root: Path, *, work: Path, what: str) -> Outcome:
    """Run the command on a data set, in this process."""
    from typer.testing import CliRunner

    from pipelines.scoring import evaluation
    from qdbev_cli.app import app

    predicted: list[bool] = []
    predict = evaluation.predict
    settings = [*OPTIONS, f"data.source={root}", f"data.cache={work / 'cache'}"]
    words = [word for setting in settings for word in ("--set", setting)]
    words += ["--store", str(work / "store"), "--device", "cpu", "--json", "--profile", "float"]

    def noting(*detector: Any, **named: Any) -> Any:
        predicted.append(True)
        return predict(*detector, **named)

    evaluation.predict = noting  # type: ignore[assignment]
    start = time.perf_counter()
    try:
        result = CliRunner().invoke(app, ["evaluate", *words])
    finally:
        evaluation.predict = predict
    seconds = time.perf_counter() - start
    said = result.stdout if result.stdout.startswith("{") else json.dumps({"error": result.output[-300:]})
    document: dict[str, Any] = json.loads(said)
    score = document.get("metrics", {}).get("NDS")
    return Outcome(what, result.exit_code, seconds, score, document.get("error", ""), bool(predicted))


def tried(source: Path, *, seed: int, work: Path) -> Outcome:
    """One mutation, evaluated."""
    root = linked_copy(source, target=work / f"mutated-{seed}")
    outcome = evaluate(root, work=work, what=mutate(root, seed=seed))
    shutil.rmtree(root)
    return outcome


def fault(outcome: Outcome) -> str:
    """What must not be of an outcome; empty where all is well."""
    if outcome.code not in (0, 3):
        return f"ended with {outcome.code}"
    if outcome.seconds > LIMIT_S:
        return f"took {outcome.seconds:.0f} s"
    if outcome.code and outcome.predicted:
        return "predicted, then refused"
    if outcome.code and not 10 < len(outcome.sentence) < 1000:
        return f"said {len(outcome.sentence)} characters"
    return ""


def main() -> int:
    """Try many; a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        sound = evaluate(linked_copy(options.root, target=work / "sound"), work=work, what="sound").score
        for seed in range(options.seed, options.seed + options.count):
            outcome = tried(options.root, seed=seed, work=work)
            wrong = fault(outcome)
            kind = wrong or ("refused" if outcome.code else "same score" if outcome.score == sound else "another score")
            counts[kind] += 1
            print(f"{seed:4d} {kind:14s} {outcome.what:45s} {outcome.score or outcome.sentence}", flush=True)
    print(", ".join(f"{kind}: {count}" for kind, count in counts.most_common()))
    return int(any(kind not in ("refused", "same score", "another score") for kind in counts))


if __name__ == "__main__":
    raise SystemExit(main())
