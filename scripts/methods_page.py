"""Print docs/methods.md from docs/methods.json, which ``scripts/measure_methods.py`` writes.

python scripts/methods_page.py > docs/methods.md
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from method_rows import (
    BEFORE_TRAINING,
    BITS,
    CALIBRATE,
    DISTIL,
    FLOAT,
    LEDGER,
    METHODS,
    NO_DISTILLATION,
    NO_STEPS,
    SCORES,
)

import profiles

Runs = dict[tuple[str, str], list[dict[str, Any]]]

NO_TRAINING = f"--set {NO_STEPS} --set {NO_DISTILLATION}"
ADVICE = (
    ("the most, without training", "`qdbev compress --own-bits`", "start-mixed"),
    ("the same bits everywhere, without training", f"`qdbev compress {NO_TRAINING}`", "start"),
    ("the same bits everywhere, trained", f"`qdbev compress --set {NO_DISTILLATION}`", "ours"),
    ("the paper as printed, before distillation", "`qdbev qat-progressive --recipe paper`", "paper"),
    ("a first number at once", "`qdbev calibrate`", "min-max"),
)
"""What somebody wants -> the command, and the row that says what it keeps."""

HEADER = """# Methods

## Which method should I take?

{advice}

Numbers are the share of float's NDS that is kept, on nano and synthetic scenes. They order methods; they do not predict
nuScenes. At 8 bits calibration is enough. At 4 bits, bits of their own for every layer keep most, and need no training.
Where all layers must have the same bits, training wins at W4A4 alone.

## What was measured

Every method of the pipeline on `nano`: {samples} samples of {scenes} held-out synthetic scenes, scored by
nuscenes-devkit. `python scripts/measure_methods.py` makes the runs and writes them into `docs/methods.json`,
from which `python scripts/methods_page.py` prints this page and `python scripts/methods_picture.py` draws its picture.
The float detector has an NDS of {nds:.4f}. Its controls were trained on without bits for the same steps at the same
rates, batch after batch (`train-float --continue`):

{controls}

A cell is the mean NDS, its standard deviation over seeds, and the number of seeds; a dash was not made. Seeds draw the
order of the batches, and where nothing is trained the {calibration} calibration samples. QAT takes {steps} steps in
all, whatever the method, distillation and its control {more} more; rates are those of the recipe. {places}

![NDS that every method loses, at every width](images/methods.svg)
"""


def main() -> None:
    """Print the page."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(page(read(LEDGER)))


def read(ledger: Path) -> Runs:
    """The runs of each method at each width."""
    runs: Runs = {}
    for run in json.loads(ledger.read_text(encoding="utf-8")):
        runs.setdefault((run["method"], run["bits"]), []).append(run)
    return runs


def page(runs: Runs) -> str:
    """The page in Markdown."""
    profile = profiles.load("w4a6")
    scenes = profile.data.val_scenes or 150
    header = HEADER.format(
        samples=scenes * profile.data.key_frames,
        scenes=scenes,
        nds=runs[FLOAT, BITS[0]][0]["NDS"],
        advice="\n".join(_advice(runs)),
        controls="\n".join(_controls(runs)),
        calibration=profile.calibration.samples,
        steps=profile.qat.steps(),
        more=profile.distillation.schedule.steps,
        places=_places(runs),
    )
    lines = [header, *_table("methods", runs=runs), "", *_notes(runs), *_best(runs), ""]
    lines += ["## What training starts from", "", "Four stages without a single step, one thing changed at a time:", ""]
    lines += [*_table(BEFORE_TRAINING, runs=runs), "", "## What the scores are made of", ""]
    lines += ["mAP and the five errors of true positives, the mean over seeds:", "", *_scores(runs), ""]
    lines += ["## Against float", ""]
    lines += [
        "Paired differences in NDS of what is trained, and of what training starts from, seed by seed; to the control",
        "of the same stages, rates and seed. Where nothing is trained, float itself is the control, and the second",
        "column compares with the one of ours. The 95 % intervals of the paired bootstrap say how far other scenes",
        "would move a difference, not how far another training would, which is what the seeds are for:",
        "",
    ]
    lines += [*_against(runs), "", "## Distillation against the same steps without a teacher", ""]
    lines += [*_distilled(runs), "", "## Commands", "", *_plans(runs), "| method | command | source |", "|---|---|---|"]
    for method in METHODS.values():
        if method.command != FLOAT:
            lines.append(f"| {method.title} | `{method.shell('w4a6')}` | {method.source} |")
    return "\n".join(lines)


def _advice(runs: Runs) -> list[str]:
    """A line for each kind of need: what to run, and what it keeps."""
    lines = [f"| You want | Run | {' | '.join(bits.upper() for bits in BITS)} |", "|---" * (len(BITS) + 2) + "|"]
    whole = runs[FLOAT, BITS[0]][0]["NDS"]
    for want, command, name in ADVICE:
        kept = [f"{100 * mean(run['NDS'] for run in runs[name, bits]) / whole:.1f} %" for bits in BITS]
        lines.append(f"| {want} | {command} | {' | '.join(kept)} |")
    return lines


def _plans(runs: Runs) -> list[str]:
    """A line for each bits: the command that makes the plan, and an empty one."""
    lines = ["`PLAN` is what these make, the size and the bit operations of uniform bits:", ""]
    for bits in BITS:
        of_bits = (run for (_, at), made in runs.items() if at == bits for run in made)
        budget = next((run["budget"] for run in of_bits if "budget" in run), None)
        if budget:
            words = " ".join(f"--budget {word}" for word in budget)
            lines.append(f"- `qdbev sensitivity --profile {bits} --plan {words}`")
    return [*lines, ""]


def _controls(runs: Runs) -> list[str]:
    rows = {name: method for name, method in METHODS.items() if not method.compressed and name != FLOAT}
    return [f"- {method.title}: {_cell(runs.get((name, BITS[0]), []))}" for name, method in rows.items()]


def _places(runs: Runs) -> str:
    """A sentence: how many runs were made where, and what quantized layers multiply there."""
    where = Counter(
        f"{run['device']} (torch {run['torch']}, products of {run['products']})"
        for made in runs.values()
        for run in made
    )
    return "Made on: " + "; ".join(f"{place}, {count} runs" for place, count in where.most_common()) + "."


def _table(group: str, *, runs: Runs) -> list[str]:
    lines = [f"| method | {' | '.join(bits.upper() for bits in BITS)} |", "|---" * (len(BITS) + 1) + "|"]
    for name, method in METHODS.items():
        if method.group == group and method.compressed:
            cells = [_cell(runs.get((name, bits), [])) for bits in BITS]
            lines.append(f"| {method.title} | {' | '.join(cells)} |")
    return lines


def _notes(runs: Runs) -> list[str]:
    """A line for each note that runs carry, and an empty one."""
    noted: dict[str, list[str]] = {}
    for (name, bits), made in runs.items():
        for note in {run["note"] for run in made if "note" in run}:
            seeds = ", ".join(str(run["seed"]) for run in made if run.get("note") == note)
            noted.setdefault(note, []).append(f"{METHODS[name].title}, {bits.upper()}, seeds {seeds}")
    lines = [f"- {note[0].upper()}{note[1:]}: {'; '.join(those)}." for note, those in noted.items()]
    return [*lines, ""] if lines else []


def _best(runs: Runs) -> list[str]:
    """A line for each bits: the highest mean of this page."""
    lines = ["The best of the page, this table and the next:", ""]
    for bits in BITS:
        made = {name: seeds for (name, at), seeds in runs.items() if at == bits and METHODS[name].compressed}
        if made:
            name = max(made, key=lambda one: mean(run["NDS"] for run in made[one]))
            before = "four stages without a step, " if METHODS[name].group == BEFORE_TRAINING else ""
            lines.append(f"- {bits.upper()}: {before}{METHODS[name].title}, {_cell(made[name])}")
    return lines


def _cell(made: list[dict[str, Any]]) -> str:
    values = [run["NDS"] for run in made]
    if not values:
        return "-"
    spread = f" ± {stdev(values):.4f}" if len(values) > 1 else ""
    return f"{mean(values):.4f}{spread} ({len(values)})"


def _against(runs: Runs) -> list[str]:
    lines = ["| method | bits | less float | less the control |", "|---|---|---|---|"]
    for (name, bits), made in runs.items():
        method = METHODS[name]
        if method.command not in (FLOAT, CALIBRATE):
            cells = [_differences(made, rival=rival) for rival in ("float", "control")]
            lines.append(f"| {method.title} | {bits.upper() if method.compressed else 'float'} | {' | '.join(cells)} |")
    return lines


def _distilled(runs: Runs) -> list[str]:
    lines = ["| method | bits | less no teacher |", "|---|---|---|"]
    for (name, bits), made in runs.items():
        if METHODS[name].command == DISTIL:
            lines.append(f"| {METHODS[name].title} | {bits.upper()} | {_differences(made, rival='no teacher')} |")
    return lines


def _scores(runs: Runs) -> list[str]:
    lines = [f"| method | bits | seeds | {' | '.join(SCORES)} |", "|---" * (len(SCORES) + 3) + "|"]
    for (name, bits), made in runs.items():
        complete = [run for run in made if all(score in run for score in SCORES)]
        if complete:
            means = [f"{mean(run[score] for run in complete):.3f}" for score in SCORES]
            shown = bits.upper() if METHODS[name].compressed else "float"
            lines.append(f"| {METHODS[name].title} | {shown} | {len(complete)} | {' | '.join(means)} |")
    return lines


def _differences(made: list[dict[str, Any]], *, rival: str) -> str:
    found = [run[f"less {rival}"] for run in made if f"less {rival}" in run]
    return "; ".join(f"{value:+.4f} [{low:+.4f}, {high:+.4f}]" for value, low, high in found) or "-"


if __name__ == "__main__":
    main()
