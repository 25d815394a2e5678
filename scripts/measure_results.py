"""Measure docs/results.md: post-training quantization, QAT and distillation on nano, seeds and paired intervals.

    python scripts/measure_results.py --seeds 0 1 2 --store runs > docs/results.md

Everything is sealed in the store, so seeds may run in several processes first (``--train-only --seeds 1``) and a last
call only reads. Each seed has its own paired interval over scenes; differences are also averaged over seeds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

import profiles
from pipelines import plan_bits, train_float
from pipelines.assemble import float_artifact
from pipelines.bit_plans import bits_label
from pipelines.calibration import calibrated
from pipelines.comparison import interval, matches_of
from pipelines.distillation import distil
from pipelines.evaluation import evaluate_artifact
from pipelines.stages import trained_stages
from pipelines.store import Artifact, Store
from profiles import Profile
from qdbev.reporting.results import accuracy_table
from qdbev.reporting.tables import render

PTQ = (("w8a8", "ptq"), ("w6a6", "ptq"), ("w4a6", "ptq"), ("w4a4", "ptq"), ("w4a6", "gptq"))
RUNS = ("standard", "longer", "vgd")
HEADER = """# Results

`{model}` on {samples} samples of {scenes} held-out synthetic scenes, scored by nuscenes-devkit. This page is what
`python scripts/measure_results.py {options}` prints; the float weights are `{weights}`.

Intervals are 95 % of the paired bootstrap over scenes: they say how far other scenes would move a result, not how far
another training would, which is what the seeds are for. A difference whose interval holds zero is called none. PTQ is
min-max calibration on {calibration} training samples, with or without rounding that compensates (`--method gptq`).
`PTQ, mixed bits` has the nominal size and the bit operations of W4A6, but bits of its own for every layer, chosen on
the calibration samples (`sensitivity --plan`). `progressive, no steps` are the four stages without training: what each
begins with, part by part. Each QAT run takes {steps} steps; `longer` and `+ VGD` take {more} steps more from the
progressive run, without and with the view-guided loss. `float, longer` is the control: the float detector trained on
in the same stages (`train-float --continue`). A dash stands for a run that was not made.
"""


@dataclass(frozen=True)
class Scored:
    """One evaluated model."""

    name: str
    bits: str
    seed: int | None
    evaluation: Artifact

    @property
    def nds(self) -> float:
        """Its NDS."""
        return float(self.evaluation.manifest.metrics["NDS"])  # type: ignore[arg-type]


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", default="runs")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--profile", default="w4a6", help="bits that are trained")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", nargs="*", choices=RUNS, default=RUNS, help="what is trained beside progressive QAT")
    parser.add_argument("--control", type=int, nargs="*", default=[0], help="seeds with a float control")
    parser.add_argument("--train-only", action="store_true", help="seal everything, print nothing")
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    options = parser.parse_args()
    store = Store(options.store)
    plain = profiles.load("w4a6", model=options.model, overrides=options.overrides)
    reference = Scored("float", "W32A32", None, score(float_artifact(plain, store=store), profile=plain, store=store))
    tables = [] if options.train_only else untrained(options, reference=reference, store=store)
    trained = [one for seed in options.seeds for one in train(seed, options, store=store)]
    if not options.train_only:
        stated = {"seeds": options.seeds, "runs": options.runs, "control": options.control}
        words = " ".join(" ".join([f"--{name}", *map(str, values)]) for name, values in stated.items())
        print(document(reference, tables, trained, profile=plain, options=words))


def score(model: Artifact, *, profile: Profile, store: Store) -> Artifact:
    """Its sealed evaluation."""
    return evaluate_artifact(profile, store=store, model=model, progress=True)


def untrained(options: argparse.Namespace, *, reference: Scored, store: Store) -> list[Scored]:
    """Post-training quantization, and the progressive stages without a single step: what training starts from."""
    rows = []
    for name, method in PTQ:
        words = [*options.overrides, f"calibration.method={method}"]
        profile = profiles.load(name, model=options.model, overrides=words)
        model, _ = calibrated(profile, store=store, progress=True)
        bits, evaluation = profile.quantization.label, score(model, profile=profile, store=store)
        rows.append(Scored({"ptq": "PTQ", "gptq": "PTQ, compensated rounding"}[method], bits, None, evaluation))
    rows.append(mixed(options, whole=gbops(reference.evaluation), store=store))
    words = [*options.overrides, "qat.steps_per_stage=0"]
    profile = profiles.load(options.profile, model=options.model, overrides=words)
    model, _ = trained_stages(profile, store=store, stages=4, progress=True)
    evaluation = score(model, profile=profile, store=store)
    return [*rows, Scored("progressive, no steps", profile.quantization.label, None, evaluation)]


def gbops(artifact: Artifact) -> float:
    """Bit operations of one inference."""
    parts: Any = artifact.manifest.metrics["gbops"]
    return float(parts["total"])


def mixed(options: argparse.Namespace, *, whole: float, store: Store) -> Scored:
    """Min-max calibration of a plan that has no more bytes and bit operations than the uniform profile.

    Args:
        options: Which profile.
        whole: Bit operations of the float detector, in 1e9.
        store: Where everything is sealed.
    """
    profile = profiles.load(options.profile, model=options.model, overrides=options.overrides)
    uniform, _ = calibrated(profile, store=store, progress=True)
    size, bops = profile.quantization.weight_bits / 32, gbops(uniform) / whole
    words = [*options.overrides, f"bit_plan.size={size}", f"bit_plan.bops={bops}"]
    planned = plan_bits.run(profiles.load(options.profile, model=options.model, overrides=words), store=store)
    words = [*options.overrides, f"quantization.plan={planned['artifact']['digest']}"]
    profile = profiles.load(options.profile, model=options.model, overrides=words)
    model, _ = calibrated(profile, store=store, progress=True)
    return Scored("PTQ, mixed bits", bits_label(model), None, score(model, profile=profile, store=store))


def train(seed: int, options: argparse.Namespace, *, store: Store) -> list[Scored]:
    """The float control, standard and progressive QAT, and on top of the latter further steps without and with VGD."""
    profile = profiles.load(options.profile, model=options.model, overrides=options.overrides, seed=seed)
    models = {}
    if "standard" in options.runs:
        models["standard QAT"], _ = trained_stages(profile, store=store, stages=1, progress=True)
    progressive, _ = trained_stages(profile, store=store, stages=4, progress=True)
    models["progressive QAT"] = progressive
    if "longer" in options.runs:
        longer, _ = distil(profile, store=store, parent=progressive, distilled=False, progress=True)
        models["progressive QAT, longer"] = longer
    if "vgd" in options.runs:
        models["progressive QAT + VGD"], _ = distil(profile, store=store, parent=progressive, progress=True)
    bits = profile.quantization.label
    scored = [Scored(name, bits, seed, score(model, profile=profile, store=store)) for name, model in models.items()]
    return [control(seed, options, store=store), *scored] if seed in options.control else scored


def control(seed: int, options: argparse.Namespace, *, store: Store) -> Scored:
    """The float detector trained on as QAT and distillation train it (``train-float --continue``)."""
    profile = profiles.load(options.profile, model=options.model, overrides=options.overrides, seed=seed)
    outcome = train_float.run(profile, store=store, further=True)
    model = store.open(outcome["artifact"]["digest"])
    return Scored("float, longer", "W32A32", seed, score(model, profile=profile, store=store))


def document(
    reference: Scored, ptq: Sequence[Scored], trained: Sequence[Scored], *, profile: Profile, options: str
) -> str:
    """The page in Markdown; ``options`` are those that make it again."""
    base = matches_of(reference.evaluation, profile=profile)
    rows = []
    for one in (reference, *ptq, *trained):
        seed = "" if one.seed is None else f", seed {one.seed}"
        row = {"name": one.name + seed, "bits": one.bits, **one.evaluation.manifest.metrics}
        if one is not reference:
            found = interval(base, matches_of(one.evaluation, profile=profile), profile=profile)
            row |= {"NDS_low": found["low"], "NDS_high": found["high"]}
        rows.append(row)
    table = render(accuracy_table(rows, reference="float"), form="md")
    data = reference.evaluation.manifest.data
    header = HEADER.format(
        model=profile.model.name,
        samples=data["samples"],
        scenes=data["scenes"],
        options=options,
        weights=reference.evaluation.manifest.parents["model"][:12],
        calibration=profile.calibration.samples,
        steps=profile.qat.steps(),
        more=profile.distillation.schedule.steps,
    )
    lines = [header, table, "", "| trained | seeds | NDS mean | sd over seeds | of float |", "|---|---|---|---|---|"]
    for name in dict.fromkeys(one.name for one in trained):
        values = [one.nds for one in trained if one.name == name]
        spread = f"{stdev(values):.4f}" if len(values) > 1 else "-"
        lines.append(f"| {name} | {len(values)} | {mean(values):.4f} | {spread} | {mean(values) / reference.nds:.3f} |")
    lines += ["", "| difference in NDS | each seed, with the 95 % interval over scenes | mean |", "|---|---|---|"]
    for better, worse in (
        ("progressive QAT + VGD", "float, longer"),
        ("progressive QAT", "standard QAT"),
        ("progressive QAT + VGD", "progressive QAT, longer"),
        ("progressive QAT + VGD", "progressive QAT"),
    ):
        lines.append(_difference(better, worse, trained, profile=profile))
    uniform = [one for one in ptq if (one.name, one.bits) == ("PTQ", profile.quantization.label)]
    lines.append(_difference("PTQ, mixed bits", "PTQ", [*uniform, *ptq[-2:]], profile=profile))
    return "\n".join(lines)


def _difference(better: str, worse: str, trained: Sequence[Scored], *, profile: Profile) -> str:
    cells, values = [], []
    for seed in dict.fromkeys(one.seed for one in trained):
        pair = {one.name: one for one in trained if one.seed == seed}
        if not {better, worse} <= pair.keys():
            continue
        found = interval(
            matches_of(pair[worse].evaluation, profile=profile),
            matches_of(pair[better].evaluation, profile=profile),
            profile=profile,
        )
        values.append(found["value"])
        cells.append(f"{found['value']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]")
    average = f"{mean(values):+.4f}" if values else "-"
    return f"| {better} − {worse} | {'; '.join(cells) or '-'} | {average} |"


if __name__ == "__main__":
    main()
