"""Pairs of one command at once on one store: both end well, with the same artifact, all sound and nothing beside.

python scripts/try_pairs.py --pairs 20
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipelines.store.artifacts import Store

QUICK = (
    "data.train_scenes=1",
    "data.val_scenes=1",
    "data.key_frames=2",
    "calibration.samples=2",
    "quantization.training_rounding=nearest",
    "qat.steps_per_stage=1",
    "qat.batch_size=1",
    "qat.save_every=1",
    "qat.evaluate_each_stage=false",
    "distillation.schedule.steps=1",
    "distillation.schedule.batch_size=1",
    "distillation.auto_steps=1",
    "evaluation.bootstrap_resamples=0",
    "evaluation.max_boxes=20",
)


def words(command: str, *, store: Path, model: str) -> list[str]:
    """The command with settings that make it quick."""
    settings = [word for setting in QUICK for word in ("--set", setting)]
    stages = ["--device", "cpu", *(["--stages", "1"] if command == "compress" else [])]
    return [command, "--model", model, "--store", str(store), *settings, *stages]


def started(words: list[str]) -> subprocess.Popen[bytes]:
    """``qdbev`` with these words, at work."""
    command = [sys.executable, "-m", "qdbev_cli", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def try_pair(command: str, *, store: Path, model: str, lag_s: float) -> tuple[bool, str]:
    """Run the command twice at once, the second a little later; whether all is well, and a line about it."""
    began = time.monotonic()
    pair = []
    for wait in (0.0, lag_s):
        time.sleep(wait)
        pair.append(started(words(command, store=store, model=model)))
    printed = [process.communicate() for process in pair]
    codes = [process.returncode for process in pair]
    last = [out.decode().strip().rpartition("\n")[2] for out, _ in printed]
    artifacts = Store(store).list()
    for artifact in artifacts:
        Store(store).verify(artifact)
    litter = [path.name for pattern in (".unfinished*", ".locks/*") for path in store.glob(pattern)]
    well = codes == [0, 0] and last[0] == last[1] and not litter
    errors = "" if well else " | ".join(err.decode()[-300:] for _, err in printed)
    line = (
        f"{codes} {len(artifacts)} artifacts, {time.monotonic() - began:.0f} s, {last[0][:60]} {litter or ''} {errors}"
    )
    return well, line


def main() -> int:
    """Run the pairs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--command", default="compress")
    parser.add_argument("--model", default="nano", help="a name, or a YAML of a smaller one, which is quicker")
    parser.add_argument("--lag", type=float, default=0.3, help="seconds by which the lag of the second grows each time")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    good = 0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.pairs):
            store = Path(folder) / str(number)
            well, line = try_pair(arguments.command, store=store, model=arguments.model, lag_s=number * arguments.lag)
            good += well
            print(f"pair {number + 1}: {'well' if well else 'NOT WELL'} {line}", flush=True)
    print(f"{good} of {arguments.pairs} pairs ended well")
    return 0 if good == arguments.pairs else 1


if __name__ == "__main__":
    sys.exit(main())
