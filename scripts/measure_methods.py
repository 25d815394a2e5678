"""Measure docs/methods.json, what docs/methods.md is made of: every method on nano, at several bits and seeds.

    python scripts/measure_methods.py --store runs --methods min-max gptq --bits w4a6 w4a4 --seeds 0 1 2
    python scripts/methods_page.py > docs/methods.md
    python scripts/measure_methods.py --store runs --model nano-petr --methods float dfq --bits w8a8
    python scripts/detectors_table.py > docs/table5.md

What is scored is sealed in the store, so this may be called in pieces, by several processes and on other days; what is
sealed already is not made again. A run is written into the file as soon as it is scored, in the place of an older one
of the same method, bits and seed: the file may come from several machines, and says of each run where it was made and
whether quantized layers of the profile's bits multiplied integers there.
Differences are to the float detector, to the float control of the same seed, stages and rates (``float-longer...``)
and, of distillation, to the same steps without a teacher (``ours-longer``), where those were made in the same store
before; the same command once more adds them to runs from before.
"""

from __future__ import annotations

import argparse
import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from method_rows import (
    BITS,
    CALIBRATE,
    CONTROL,
    DISTIL,
    FLOAT,
    LEDGER,
    LEDGER_OF_OTHERS,
    METHODS,
    NANO,
    NO_TEACHER,
    SCORES,
    Method,
)

import profiles
from pipelines.assembly.detector import device_of
from pipelines.assembly.job import Job
from pipelines.assembly.weights import float_artifact
from pipelines.bit_planning.choice import bit_plan_of
from pipelines.calibration.calibrated import calibrated
from pipelines.costs.latency import device_name
from pipelines.scoring.comparison import interval, matches_of
from pipelines.scoring.evaluation import evaluate_artifact
from pipelines.store.artifacts import Artifact, Store
from pipelines.training.distillation import distil
from pipelines.training.float_training import trained_on
from pipelines.training.stages import trained_stages
from profiles import Profile
from qdbev.ops import integer_weight_bits


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", default="runs")
    parser.add_argument("--model", default=NANO, help="the detector; others than nano have a file of their own")
    parser.add_argument("--ledger", type=Path, help="file that the runs are written into")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD")
    parser.add_argument("--bits", nargs="+", choices=BITS, default=["w4a6", "w4a4"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    store = Store(options.store)
    ledger = options.ledger or (LEDGER if options.model == NANO else LEDGER_OF_OTHERS)
    for name in options.methods:
        for bits in options.bits if METHODS[name].compressed else BITS[:1]:
            for seed in options.seeds:
                run = measured(name, model=options.model, bits=bits, seed=seed, store=store)
                write(run, ledger=ledger)
                print(f"{options.model} {name} {bits} seed {seed}: NDS {run['NDS']:.4f}", flush=True)


def measured(name: str, *, model: str, bits: str, seed: int, store: Store) -> dict[str, Any]:
    """What the page needs of a run: scores, differences with their intervals, and where it was made."""
    profile, evaluation = make(METHODS[name], model=model, bits=bits, seed=seed, store=store)
    metrics = evaluation.manifest.metrics
    return {
        **({} if model == NANO else {"model": model}),
        "method": name,
        "bits": bits,
        "seed": seed,
        **{score: round(float(str(metrics[score])), 5) for score in SCORES},
        **_differences(evaluation, name=name, bits=bits, seed=seed, profile=profile, store=store),
        **({"budget": _budget(bits, model=model, store=store)} if METHODS[name].mixed else {}),
        **_place(evaluation, name=name, bits=bits, seed=seed, profile=profile, store=store),
        "torch": evaluation.manifest.packages["torch"],
    }


def make(method: Method, *, model: str, bits: str, seed: int, store: Store) -> tuple[Profile, Artifact]:
    """The profile and the sealed evaluation of one run; made where it is missing."""
    drawn = seed if method.draws_samples else 0
    plan = plan_of(bits, model=model, seed=drawn, store=store) if method.mixed else None
    profile = method.profile(bits, model=model, seed=seed, plan=plan)
    made = _made(method, profile=profile, store=store)
    return profile, evaluate_artifact(Job(profile, store, progress=True), model=made)


def _made(method: Method, *, profile: Profile, store: Store) -> Artifact:
    if method.command == FLOAT:
        return float_artifact(Job(profile, store))
    if method.command.startswith(CONTROL):
        return trained_on(Job(profile, store)).artifact
    if method.command == CALIBRATE:
        return calibrated(Job(profile, store, progress=True))[0]
    stages, _ = trained_stages(Job(profile, store, progress=True))
    if not method.command.startswith(DISTIL):
        return stages
    return distil(Job(profile, store, progress=True), parent=stages, distilled=method.command == DISTIL)[0]


def plan_of(bits: str, *, model: str, seed: int, store: Store) -> str:
    """Digest of the bit plan with no more size and bit operations than the uniform profile, on drawn samples."""
    words = [f"calibration.seed={seed}", *budget_words(bits, model=model, seed=seed, store=store)]
    return bit_plan_of(Job(profiles.load(bits, model=model, overrides=words), store)).artifact.digest


def _budget(bits: str, *, model: str, store: Store) -> list[str]:
    """The words of ``sensitivity --budget`` for the budget of a plan."""
    named = [word.removeprefix("bit_plan.").split("=") for word in budget_words(bits, model=model, seed=0, store=store)]
    return [f"{name}={float(share):.3g}" for name, share in named]


def budget_words(bits: str, *, model: str, seed: int, store: Store) -> list[str]:
    """Overrides that ask for the size and the bit operations of the uniform profile, as shares of float."""
    profile = profiles.load(bits, model=model, overrides=[f"calibration.seed={seed}"])
    whole = evaluate_artifact(Job(profile, store), model=float_artifact(Job(profile, store)))
    uniform, _ = calibrated(Job(profile, store, progress=True))
    share = _gbops(uniform) / _gbops(whole)
    return [f"bit_plan.size={profile.quantization.weight_bits / 32}", f"bit_plan.bops={share}"]


def _gbops(artifact: Artifact) -> float:
    parts: Any = artifact.manifest.metrics["gbops"]
    return float(parts["total"])


def _place(evaluation: Artifact, *, name: str, bits: str, seed: int, profile: Profile, store: Store) -> dict[str, str]:
    """Where a run was made, and what its quantized layers multiplied; noted in the store when it is first met there."""
    note = _note(store, model=profile.model.name, name=name, bits=bits, seed=seed)
    known = json.loads(note.read_text(encoding="utf-8")) if note.exists() else {}
    if known.get("evaluation") != evaluation.digest:
        device = device_of(profile)
        narrow = profile.quantization.weight_bits <= integer_weight_bits()
        of_integers = METHODS[name].compressed and device.type == "cpu" and narrow
        products = "integers" if of_integers else "float values"
        known = {"evaluation": evaluation.digest, "device": device_name(device), "products": products}
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(known), encoding="utf-8")
    return {key: known[key] for key in ("device", "products")}


def _differences(
    evaluation: Artifact, *, name: str, bits: str, seed: int, profile: Profile, store: Store
) -> dict[str, list[float]]:
    """NDS less that of each rival that was made, with its interval, by ``less RIVAL``."""
    method = METHODS[name]
    rivals = {"float": (FLOAT, BITS[0], 0)}
    if method.compressed and method.command != CALIBRATE:
        rivals["control"] = (method.control, BITS[0], seed)
    if method.command == DISTIL:
        rivals["no teacher"] = (NO_TEACHER, bits, seed)
    found = {}
    for title, (rival, its_bits, its_seed) in rivals.items():
        note = _note(store, model=profile.model.name, name=rival, bits=its_bits, seed=its_seed)
        if rival == name or not note.exists():
            continue
        base = store.open(json.loads(note.read_text(encoding="utf-8"))["evaluation"])
        found[f"less {title}"] = difference(base, evaluation, profile=profile, store=store)
    return found


def difference(base: Artifact, other: Artifact, *, profile: Profile, store: Store) -> list[float]:
    """NDS of ``other`` less that of ``base``, and the ends of its interval; computed once, then kept in the store."""
    kept = store.root / "_methods" / f"{other.digest[:16]}.less.{base.digest[:16]}"
    if not kept.exists():
        split = Job(profile, store).evaluation_split()
        between = interval(matches_of(base, split=split), matches_of(other, split=split), profile=profile)
        kept.write_text(json.dumps([round(between[key], 5) for key in ("value", "low", "high")]), encoding="utf-8")
    values: list[float] = json.loads(kept.read_text(encoding="utf-8"))
    return values


def _note(store: Store, *, model: str, name: str, bits: str, seed: int) -> Path:
    """The file that keeps which evaluation a run ended with, and where."""
    of_model = "" if model == NANO else f"{model}."
    return store.root / "_methods" / f"{of_model}{name}.{bits}.{seed}"


def write(run: dict[str, Any], *, ledger: Path) -> None:
    """Put a run into the ledger, in the place of an older one."""
    with _locked(ledger) as runs:
        runs[:] = [one for one in runs if _key(one) != _key(run)] + [run]
        runs.sort(key=_key)


@contextmanager
def _locked(ledger: Path) -> Iterator[list[dict[str, Any]]]:
    """The runs of the file, written back; other processes wait."""
    with ledger.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        runs: list[dict[str, Any]] = json.loads(ledger.read_text(encoding="utf-8")) if ledger.exists() else []
        yield runs
        lines = ",\n".join(json.dumps(run) for run in runs)
        part = ledger.with_suffix(".tmp-part")
        part.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
        part.replace(ledger)


def _key(run: dict[str, Any]) -> tuple[str, int, int, int]:
    place = list(METHODS).index(run["method"])
    return run.get("model", NANO), place, BITS.index(run["bits"]), int(run["seed"])


if __name__ == "__main__":
    main()
