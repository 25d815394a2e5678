"""Ask the tests: of a random sample of small wrong changes of the product, how many do they catch?

python scripts/mutation_sample.py --count 60 --seed 3 --jobs 2 --out mutants.json
python scripts/mutation_sample.py --count 6 --paths qdbev/distillation --list    # only shows what would be tried

Every change is made in a copy of the tree. Doctests and tests of the changed module run first, then tests that import
it, then those of its whole room; with --suite then all that are not slow. A change ``survived`` when all
of these passed; it is ``killed`` when a test failed that passes without the change, ``timeout`` when the time was over.
The same command goes on where it was stopped: rows of --out whose change is drawn again are not run again.
"""

from __future__ import annotations

import argparse
import json
import queue
import random
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from threading import Lock

from mutant_trial import ROOT, Copy, Options, Row, files_of_tree
from mutants import Mutant, mutants_of

PRODUCT = ("qdbev", "pipelines", "profiles", "qdbev_cli")


def main() -> int:
    """Draw, run, print the table; 1 where something survived."""
    arguments = _arguments()
    mutants = drawn(arguments.paths, seed=arguments.seed, count=arguments.count)
    if arguments.list:
        print("\n".join(f"{mutant.path}:{mutant.line}  {mutant.kind}: {change(mutant)}" for mutant in mutants))
        return 0
    options = Options(limit_s=arguments.limit, whole_suite=arguments.suite)
    kept = _rows_of(arguments.out, again=arguments.again)
    rows = run(mutants, rows=kept, out=arguments.out, jobs=arguments.jobs, options=options)
    print(table(rows))
    return int(any(row.verdict == "survived" for row in rows))


def drawn(paths: list[str], *, seed: int, count: int) -> list[Mutant]:
    """Draw mutants of these folders and files, every change with the same chance, in the order of the draw."""
    files = [path for path in files_of_tree() if path.endswith(".py") and path.split("/")[0] in PRODUCT]
    chosen = [path for path in files if any(path == one or path.startswith(f"{one.rstrip('/')}/") for one in paths)]
    if not chosen:
        raise SystemExit(f"no module of the product lies under {', '.join(paths)}")
    mutants = [mutant for path in sorted(chosen) for mutant in mutants_of(ROOT, path)]
    random.Random(seed).shuffle(mutants)
    return list(islice((mutant for mutant in mutants if mutant.compiles((ROOT / mutant.path).read_bytes())), count))


def run(mutants: list[Mutant], *, rows: dict[str, Row], out: Path, jobs: int, options: Options) -> list[Row]:
    """Try what has no row yet and write ``out`` after every row; return the rows of these mutants."""
    copies: queue.Queue[Copy] = queue.Queue()
    writing = Lock()

    def try_one(mutant: Mutant) -> None:
        copy = copies.get()
        try:
            row = copy.tried(mutant, options=options)
        finally:
            copies.put(copy)
        with writing:
            rows[row.key] = row
            _write(out, rows=rows)
            print(_line(row), flush=True)

    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(jobs) as pool:
        for number in range(jobs):
            copies.put(Copy(Path(folder) / str(number)))
        list(pool.map(try_one, [mutant for mutant in mutants if mutant.key not in rows]))
    return [rows[mutant.key] for mutant in mutants]


def _rows_of(out: Path, *, again: bool) -> dict[str, Row]:
    """Read the rows from before; with ``again`` only those of killed mutants."""
    if not out.is_file():
        return {}
    rows = [Row(**row) for row in json.loads(out.read_text(encoding="utf-8"))]
    return {row.key: row for row in rows if row.verdict == "killed" or not again}


def _write(out: Path, *, rows: dict[str, Row]) -> None:
    """Write all rows at once: a killed run leaves the file of before."""
    beside = out.with_name(f"{out.name}.part")
    beside.write_text(json.dumps([asdict(row) for row in rows.values()], indent=1) + "\n", encoding="utf-8")
    beside.replace(out)


def _line(row: Row) -> str:
    """One row of the table; a test is named where it killed."""
    seen = f"  <- {row.test}" if row.test else f"  ({row.stage})" if row.verdict == "timeout" else ""
    return f"{row.verdict:9} {row.seconds:6.1f} s  {row.place}  {row.kind}: {change(row)}{seen}"


def change(mutant: Mutant | Row) -> str:
    """What gave way to what, on one line."""
    before, after = (" ".join(text.split()) for text in (mutant.before, mutant.after))
    return f"{before[:60]} -> {after[:60]}"


def table(rows: list[Row]) -> str:
    """Give the rows, survivors last, and how many there are of each verdict."""
    ordered = sorted(rows, key=lambda row: (row.verdict == "survived", row.verdict, row.place))
    counts = Counter(row.verdict for row in rows)
    total = ", ".join(f"{number} {verdict}" for verdict, number in sorted(counts.items()))
    return "\n".join(("", *map(_line, ordered), f"\n{len(rows)} mutants: {total}"))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=40, help="how many changes are drawn (40)")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws others (0)")
    parser.add_argument("--paths", nargs="+", default=list(PRODUCT), help="folders or files to draw from (the product)")
    parser.add_argument("--jobs", type=int, default=1, help="how many are tried at a time, each in its own copy (1)")
    parser.add_argument("--limit", type=float, default=900, help="seconds for one change, all its tests together (900)")
    parser.add_argument("--suite", action="store_true", help="after the room's tests, all that are not slow")
    parser.add_argument("--again", action="store_true", help="try again what --out does not hold as killed")
    parser.add_argument("--list", action="store_true", help="print the draw and run nothing")
    parser.add_argument("--out", type=Path, default=Path("mutants.json"), help="the rows as JSON (mutants.json)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
