"""Scores of one random submission by qdbev and by nuscenes-devkit: CPU seconds, memory, and whether the numbers agree.

    .venv/bin/python scripts/bench_scorer.py                       # 6,019 samples of 300 boxes, the devkit on a tenth
    .venv/bin/python scripts/bench_scorer.py --devkit-share 1      # the devkit on all of them (about 20 minutes)
    .venv/bin/python scripts/bench_scorer.py --trainval            # tables as long as those of v1.0-trainval (3 GB)

Each is measured from start to end in a process of its own: tables, ground truth, submission file, filters, matching,
metrics. Imports are left out. Both read the same files, and score the same scenes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from random_scoring import VERSION, World, sample_token, write_submission, write_tables

from qdbev.evaluation.devkits.nuscenes import devkit_scores
from qdbev.evaluation.scores import Scores, score

SAMPLES = 13  # of a scene; 463 scenes of them are the 6,019 of the validation split
TRAINVAL = {"scenes": 2627, "sweeps": 37}  # 34,151 samples, 2.6 million sensor files


Scorer = Callable[[Path, Path, int], Scores]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=463, help=f"scored scenes of {SAMPLES} samples")
    parser.add_argument("--boxes", type=int, default=300, help="predicted in a sample")
    parser.add_argument("--devkit-share", type=float, default=0.1, help="share of the scenes that the devkit scores")
    parser.add_argument("--trainval", action="store_true", help="tables hold as many scenes and sweeps as trainval")
    words = parser.parse_args()
    some = max(1, round(words.scenes * words.devkit_share))
    ours = compared(words.scenes, words=words, measure={"qdbev": own} if some < words.scenes else BOTH)
    both = ours if some == words.scenes else compared(some, words=words, measure=BOTH)
    ratio = both["devkit"]["seconds"] / both["qdbev"]["seconds"]
    print(f"ratio of CPU seconds on {some * SAMPLES} samples: {ratio:.1f}")
    print(f"largest difference of a metric: {difference(both['devkit']['scores'], both['qdbev']['scores']):g}")


def compared(scenes: int, *, words: argparse.Namespace, measure: dict[str, Scorer]) -> dict[str, Any]:
    """Write tables and a submission of some scenes, and measure who scores them."""
    world = World(scenes=scenes, samples=SAMPLES, objects=39, boxes=words.boxes)
    with tempfile.TemporaryDirectory() as folder:
        root, path = Path(folder) / "data", Path(folder) / "submission.json"
        write_tables(root, world=replace(world, **TRAINVAL) if words.trainval else world, seed=0)
        write_submission(path, root=root, world=world, seed=0)
        print(f"{scenes * SAMPLES} samples of {words.boxes} boxes, a file of {path.stat().st_size / 1e6:.0f} MB")
        rows = {name: measured(work, root, path, scenes) for name, work in measure.items()}
    for name, row in rows.items():
        print(f"  {name:8} {row['seconds']:8.1f} s  {row['peak_gb']:5.2f} GB  NDS {row['scores']['nds']:.6f}")
    return rows


def own(root: Path, path: Path, scenes: int) -> Scores:
    return score(root, version=VERSION, submission=path, scenes=[f"scene-{scene:04d}" for scene in range(scenes)])


def devkit(root: Path, path: Path, scenes: int) -> Scores:
    tokens = [sample_token(scene, sample) for scene in range(scenes) for sample in range(SAMPLES)]
    return devkit_scores(root, version=VERSION, submission=path, tokens=tokens)


BOTH: dict[str, Scorer] = {"qdbev": own, "devkit": devkit}


def measured(work: Scorer, *arguments: Any) -> dict[str, Any]:
    """What a process of its own took, and its scores."""
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawned) as pool:
        return pool.submit(_measure, work, arguments).result()


def _measure(work: Scorer, arguments: tuple[Any, ...]) -> dict[str, Any]:
    start = time.process_time()
    scores = work(*arguments)
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"seconds": seconds, "peak_gb": peak, "scores": scores.serialize()}


def difference(left: Any, right: Any) -> float:
    """The largest difference between two scores; not a number against a number counts as infinite."""
    if isinstance(left, dict):
        return max(difference(left[name], right[name]) for name in left)
    if left is None or right is None:
        return 0.0 if left is right else float("inf")
    return abs(left - right)


if __name__ == "__main__":
    main()
