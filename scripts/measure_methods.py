"""Measure docs/methods.md: every method on nano, at several bits and seeds, beside float.

    python scripts/measure_methods.py make --store runs --methods min-max gptq --bits w4a6 w4a4 --seeds 0 1 2
    python scripts/measure_methods.py page --store runs > docs/methods.md

What ``make`` scores is sealed in the store and noted in its folder ``_methods``, so it may be called in pieces, by
several processes and on other days; what is sealed already is not made again. ``page`` prints what was made so far: the
seeds of every cell are counted, and a dash stands for what nobody made.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

import profiles
from pipelines import plan_bits, train_float
from pipelines.assemble import float_artifact
from pipelines.calibration import calibrated
from pipelines.comparison import interval, matches_of
from pipelines.distillation import distil
from pipelines.evaluation import evaluate_artifact
from pipelines.stages import trained_stages
from pipelines.store import Artifact, Store
from profiles import Profile

BITS = ("w8a8", "w4a6", "w4a4")
CALIBRATE, STAGES, DISTIL, CONTROL, FLOAT = "calibrate", "qat-progressive", "distill-vgd", "train-float", "float"
ALL_AT_ONCE = "qat.stages=1"
NO_STEPS = "qat.steps_per_stage=0"
BEFORE_TRAINING = "what training starts from"


@dataclass(frozen=True)
class Method:
    """A row of the page.

    Attributes:
        title: As the page calls it.
        source: Where it comes from.
        command: The command that ends it.
        recipes: Recipes over the profile.
        words: Overrides over them.
        mixed: Bits of its own for every layer, at the size and bit operations of the uniform profile.
        group: Table of the page it belongs to.
    """

    title: str
    source: str
    command: str
    recipes: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    mixed: bool = False
    group: str = "methods"

    @property
    def compressed(self) -> bool:
        """Whether bits make a difference to it."""
        return self.command != FLOAT and not self.command.startswith(CONTROL)

    def profile(self, bits: str, *, seed: int, plan: str | None = None) -> Profile:
        """The profile of one run; the seed draws what training sees, or where nothing trains calibration samples."""
        return profiles.load(bits, recipes=self.recipes, overrides=self._words(seed, plan=plan), seed=self._seed(seed))

    def shell(self, bits: str) -> str:
        """The command of seed 0."""
        options = [*(f"--recipe {one}" for one in self.recipes), *(f"--set {word}" for word in self.words)]
        options += ["--set quantization.plan=PLAN"] if self.mixed else []
        return " ".join(["qdbev", self.command, "--profile", bits, *options])

    def _words(self, seed: int, *, plan: str | None) -> list[str]:
        own = [f"calibration.seed={seed}"] if self.draws_samples else []
        return [*self.words, *own, *([f"quantization.plan={plan}"] if plan else [])]

    def _seed(self, seed: int) -> int | None:
        return None if self.draws_samples or self.command == FLOAT else seed

    @property
    def draws_samples(self) -> bool:
        """Whether its seed draws calibration samples."""
        return self.command == CALIBRATE or self.group == BEFORE_TRAINING


MSE = ("quantization.weight_observer=mse", "quantization.activation_observer=mse")
UNSIGNED = "quantization.activation_sign=auto"

METHODS: dict[str, Method] = {
    "float": Method("float", "", FLOAT),
    "float-longer": Method("float, trained on in the same stages", "", "train-float --continue"),
    "min-max": Method("PTQ, min-max", "QD-BEV, Eq. 1", CALIBRATE),
    "mse": Method("PTQ, least squared error", "", CALIBRATE, words=(*MSE, UNSIGNED)),
    "dfq": Method("DFQ", "Nagel et al., ICCV 2019", CALIBRATE, words=("calibration.method=dfq",)),
    "gptq": Method(
        "GPTQ, ranges of least squared error",
        "Frantar et al., ICLR 2023",
        CALIBRATE,
        words=("calibration.method=gptq", *MSE, UNSIGNED),
    ),
    "adaround": Method(
        "AdaRound, ranges of least squared error",
        "Nagel et al., ICML 2020",
        CALIBRATE,
        words=("calibration.method=adaround", *MSE, UNSIGNED),
    ),
    "brecq": Method(
        "BRECQ, ranges of least squared error",
        "Li et al., ICLR 2021",
        CALIBRATE,
        words=("calibration.method=brecq", *MSE, UNSIGNED),
    ),
    "qdrop": Method(
        "QDrop, ranges of least squared error",
        "Wei et al., ICLR 2022",
        CALIBRATE,
        words=("calibration.method=qdrop", *MSE, UNSIGNED),
    ),
    "mixed": Method("PTQ, min-max, mixed bits", "HAWQ-V3's program, output error", CALIBRATE, mixed=True),
    "paper-standard": Method("QAT, all at once", "QD-BEV", STAGES, ("paper",), (ALL_AT_ONCE,)),
    "paper": Method("QAT, progressive", "QD-BEV, Algorithm 1", STAGES, ("paper",)),
    "hawq-v3": Method("HAWQ-V3, progressive", "Yao et al., ICML 2021", STAGES, ("hawq-v3",)),
    "pact": Method("PACT, progressive", "Choi et al., 2018", STAGES, ("pact",)),
    "lsq": Method("LSQ, progressive", "Esser et al., ICLR 2020", STAGES, ("lsq",)),
    "lsq-plus": Method("LSQ+, progressive", "Bhalgat et al., CVPRW 2020", STAGES, ("lsq-plus",)),
    "ours": Method("ours, progressive", "docs/qat-progressive.md", STAGES),
    "ours-vgd": Method("ours, progressive, then VGD", "QD-BEV, Algorithm 1", DISTIL),
    "ours-cwd-image": Method("ours, then CWD on image features", "Shu et al., ICCV 2021", DISTIL, ("cwd-image",)),
    "ours-cwd-bev": Method("ours, then CWD on BEV features", "Shu et al., ICCV 2021", DISTIL, ("cwd-bev",)),
    "ours-fitnet": Method("ours, then hints", "Romero et al., ICLR 2015", DISTIL, ("fitnet",)),
    "ours-outputs": Method("ours, then class scores and boxes", "Hinton et al., 2015", DISTIL, ("outputs",)),
    "ours-longer": Method("ours, progressive, then no teacher", "", "distill-vgd --control"),
    "ours-mixed": Method("ours, progressive, mixed bits", "", STAGES, mixed=True),
    "start": Method("all of it", "", STAGES, words=(NO_STEPS,), group=BEFORE_TRAINING),
    "start-minmax": Method(
        "min-max ranges instead of least squared error",
        "",
        STAGES,
        words=(NO_STEPS, "quantization.training_observer=minmax"),
        group=BEFORE_TRAINING,
    ),
    "start-nearest": Method(
        "nearest rounding instead of compensated",
        "",
        STAGES,
        words=(NO_STEPS, "quantization.training_rounding=nearest"),
        group=BEFORE_TRAINING,
    ),
    "start-signed": Method(
        "signed activations everywhere",
        "",
        STAGES,
        words=(NO_STEPS, "quantization.training_sign=signed"),
        group=BEFORE_TRAINING,
    ),
    "start-at-once": Method(
        "all parts at once instead of four stages", "", STAGES, words=(NO_STEPS, ALL_AT_ONCE), group=BEFORE_TRAINING
    ),
    "start-eight": Method(
        "first and last layers at 8 bits",
        "",
        STAGES,
        words=(NO_STEPS, "quantization.first_last_bits=8"),
        group=BEFORE_TRAINING,
    ),
    "start-mixed": Method("mixed bits", "", STAGES, words=(NO_STEPS,), mixed=True, group=BEFORE_TRAINING),
}


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("make", "page"))
    parser.add_argument("--store", default="runs")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD")
    parser.add_argument("--bits", nargs="+", choices=BITS, default=["w4a6", "w4a4"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    store = Store(options.store)
    if options.what == "page":
        print(page(store))
        return
    for name in options.methods:
        for bits in options.bits if METHODS[name].compressed else BITS[:1]:
            for seed in options.seeds:
                evaluation = make(METHODS[name], bits=bits, seed=seed, store=store)
                note(store, name=name, bits=bits, seed=seed, evaluation=evaluation)
                print(f"{name} {bits} seed {seed}: NDS {evaluation.manifest.metrics['NDS']:.4f}", flush=True)


def make(method: Method, *, bits: str, seed: int, store: Store) -> Artifact:
    """The sealed evaluation of one run; made where it is missing."""
    drawn = seed if method.draws_samples else 0
    plan = plan_of(bits, seed=drawn, store=store) if method.mixed else None
    profile = method.profile(bits, seed=seed, plan=plan)
    return evaluate_artifact(profile, store=store, model=_model(method, profile=profile, store=store), progress=True)


def _model(method: Method, *, profile: Profile, store: Store) -> Artifact:
    if method.command == FLOAT:
        return float_artifact(profile, store=store)
    if method.command.startswith(CONTROL):
        made = train_float.run(profile, store=store, further=True)
        return store.open(made["artifact"]["digest"])
    if method.command == CALIBRATE:
        return calibrated(profile, store=store, progress=True)[0]
    stages, _ = trained_stages(profile, store=store, progress=True)
    if not method.command.startswith(DISTIL):
        return stages
    return distil(profile, store=store, parent=stages, distilled=method.command == DISTIL, progress=True)[0]


def plan_of(bits: str, *, seed: int, store: Store) -> str:
    """Digest of the bit plan with no more size and bit operations than the uniform profile, on drawn samples."""
    samples = f"calibration.seed={seed}"
    profile = profiles.load(bits, overrides=[samples])
    whole = evaluate_artifact(profile, store=store, model=float_artifact(profile, store=store))
    uniform, _ = calibrated(profile, store=store, progress=True)
    share = _gbops(uniform) / _gbops(whole)
    words = [samples, f"bit_plan.size={profile.quantization.weight_bits / 32}", f"bit_plan.bops={share}"]
    made = plan_bits.run(profiles.load(bits, overrides=words), store=store)
    return str(made["artifact"]["digest"])


def _gbops(artifact: Artifact) -> float:
    parts: Any = artifact.manifest.metrics["gbops"]
    return float(parts["total"])


def note(store: Store, *, name: str, bits: str, seed: int, evaluation: Artifact) -> None:
    """Write down which evaluation a run ended with."""
    path = store.root / "_methods" / f"{name}.{bits}.{seed}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"evaluation": evaluation.digest}) + "\n", encoding="utf-8")


def noted(store: Store) -> dict[tuple[str, str], dict[int, Artifact]]:
    """Evaluations by method, bits and seed."""
    found: dict[tuple[str, str], dict[int, Artifact]] = {}
    for path in sorted((store.root / "_methods").glob("*.json")):
        name, bits, seed = path.stem.split(".")
        digest = json.loads(path.read_text(encoding="utf-8"))["evaluation"]
        found.setdefault((name, bits), {})[int(seed)] = store.open(digest)
    return found


HEADER = """# Methods

Every method of the pipeline on `{model}`: {samples} samples of {scenes} held-out synthetic scenes, scored by
nuscenes-devkit. `python scripts/measure_methods.py make` makes the runs and `page` prints this page; the float weights
are `{weights}`, their NDS is {nds:.4f}. {control}

A cell is the mean NDS, its standard deviation over seeds, and the number of seeds; a dash was not made. Seeds
draw the order of the batches, and where nothing is trained the {calibration} calibration samples. QAT takes {steps}
steps in all, whatever the method, distillation and its control {more} more; rates are those of the recipe.
"""
CONTROL_IS = "Trained on in the same stages without bits (`train-float --continue`) it has {cell}."
NO_CONTROL = "The float control, trained on in the same stages, was not made."


def page(store: Store) -> str:
    """The page in Markdown."""
    runs = noted(store)
    base = runs["float", BITS[0]][0]
    profile = profiles.load("w4a6")
    control = runs.get(("float-longer", BITS[0]))
    header = HEADER.format(
        control=CONTROL_IS.format(cell=_cell(control.values())) if control else NO_CONTROL,
        model=profile.model.name,
        samples=base.manifest.data["samples"],
        scenes=base.manifest.data["scenes"],
        weights=base.manifest.parents["model"][:12],
        nds=_nds(base),
        calibration=profile.calibration.samples,
        steps=profile.qat.steps(),
        more=profile.distillation.schedule.steps,
    )
    lines = [header, *_table("methods", runs=runs), "", *_best(runs), ""]
    lines += ["## What training starts from", "", "Four stages without a single step, one thing changed at a time:", ""]
    lines += [*_table(BEFORE_TRAINING, runs=runs), "", "## Against float", ""]
    lines += [
        "Paired differences in NDS of what is trained, and of what training starts from, with 95 % intervals over",
        "scenes, seed by seed:",
        "",
    ]
    lines += [*_against(runs, store=store, profile=profile), "", "## Commands", ""]
    lines += [*_plans(runs, store=store), "| method | command | source |", "|---|---|---|"]
    for method in METHODS.values():
        if method.command != FLOAT:
            lines.append(f"| {method.title} | `{method.shell('w4a6')}` | {method.source} |")
    return "\n".join(lines)


def _table(group: str, *, runs: dict[tuple[str, str], dict[int, Artifact]]) -> list[str]:
    lines = [f"| method | {' | '.join(bits.upper() for bits in BITS)} |", "|---" * (len(BITS) + 1) + "|"]
    for name, method in METHODS.items():
        if method.group == group and method.compressed:
            cells = [_cell(runs.get((name, bits), {}).values()) for bits in BITS]
            lines.append(f"| {method.title} | {' | '.join(cells)} |")
    return lines


def _best(runs: dict[tuple[str, str], dict[int, Artifact]]) -> list[str]:
    """A sentence for each bits: the highest mean of this page."""
    lines = ["The best of the page, this table and the next:", ""]
    for bits in BITS:
        made = {
            name: list(seeds.values()) for (name, at), seeds in runs.items() if at == bits and METHODS[name].compressed
        }
        if made:
            name = max(made, key=lambda one: mean(map(_nds, made[one])))
            before = "four stages without a step, " if METHODS[name].group == BEFORE_TRAINING else ""
            lines.append(f"- {bits.upper()}: {before}{METHODS[name].title}, {_cell(made[name])}")
    return lines


def _cell(evaluations: Any) -> str:
    values = [_nds(one) for one in evaluations]
    if not values:
        return "-"
    spread = f" ± {stdev(values):.4f}" if len(values) > 1 else ""
    return f"{mean(values):.4f}{spread} ({len(values)})"


def _against(runs: dict[tuple[str, str], dict[int, Artifact]], *, store: Store, profile: Profile) -> list[str]:
    control = runs.get(("float-longer", BITS[0]), {})
    lines = ["| method | bits | less float | less float, longer |", "|---|---|---|---|"]
    for name, method in METHODS.items():
        if method.command in (FLOAT, CALIBRATE):
            continue
        for bits in BITS:
            seeds = runs.get((name, bits), {})
            if not seeds:
                continue
            rivals = [dict.fromkeys(seeds, runs["float", BITS[0]][0]), control if method.compressed else {}]
            cells = [_differences(seeds, rival, store=store, profile=profile) for rival in rivals]
            shown = bits.upper() if method.compressed else "float"
            lines.append(f"| {method.title} | {shown} | {' | '.join(cells)} |")
    return lines


def _differences(seeds: dict[int, Artifact], rivals: dict[int, Artifact], *, store: Store, profile: Profile) -> str:
    found = [
        difference(rivals[seed], one, store=store, profile=profile) for seed, one in seeds.items() if seed in rivals
    ]
    return "; ".join(f"{one['value']:+.4f} [{one['low']:+.4f}, {one['high']:+.4f}]" for one in found) or "-"


def difference(base: Artifact, other: Artifact, *, store: Store, profile: Profile) -> dict[str, float]:
    """NDS of ``other`` less that of ``base`` with its interval; computed once, then kept beside the notes."""
    path = store.root / "_methods" / "differences" / f"{base.digest[:16]}.{other.digest[:16]}.json"
    if not path.exists():
        found = interval(matches_of(base, profile=profile), matches_of(other, profile=profile), profile=profile)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(found) + "\n", encoding="utf-8")
    kept: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
    return kept


def _plans(runs: dict[tuple[str, str], dict[int, Artifact]], *, store: Store) -> list[str]:
    """The commands that make the bit plans."""
    lines = []
    for bits in BITS:
        if made := runs.get(("start-mixed", bits)):
            quantization: Any = made[min(made)].manifest.profile["quantization"]
            budget: Any = store.open(quantization["plan"]).manifest.profile["bit_plan"]
            shares = " ".join(f"--budget {name}={budget[name]:.3g}" for name in ("size", "bops"))
            lines.append(f"- `qdbev sensitivity --profile {bits} --plan {shares}`")
    return (
        ["`PLAN` is what these make, the size and the bit operations of uniform bits:", "", *lines, ""] if lines else []
    )


def _nds(evaluation: Artifact) -> float:
    return float(str(evaluation.manifest.metrics["NDS"]))


if __name__ == "__main__":
    main()
