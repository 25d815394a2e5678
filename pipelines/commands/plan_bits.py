"""sensitivity --plan: the bits of every layer chosen together under budgets, from losses measured on training samples.

Each layer's loss is measured alone, losses add up, and an integer program finds the best sum (HAWQ-V3).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.assembly.detector import refuse_unable
from pipelines.assembly.quantized import detector_plan, folded, layer_macs
from pipelines.assembly.samples import load_split, notes_on_motion
from pipelines.assembly.weights import float_detector, package_versions
from pipelines.bit_planning.costs import packed_costs
from pipelines.bit_planning.latency_table import LatencyTable, read_latency_table, table_digest
from pipelines.bit_planning.losses import evaluations, known_losses, losses_key, measured_losses
from pipelines.bit_planning.problem import (
    budget_shares,
    layer_rows,
    make_problem,
    measured_tensors,
    point,
    uniform_points,
)
from pipelines.bit_planning.score_drop import scored_split
from pipelines.calibration.calibrated import refuse_evaluation_samples
from pipelines.lineage.bit_plan import FILE, KIND, mixed_label, plan_content
from pipelines.reporting.outcome import Outcome
from pipelines.scoring.prediction import evaluation_split
from pipelines.store.artifacts import Artifact, Store
from profiles import Profile, fingerprint
from qdbev.data.queues.calibration import calibration_samples
from qdbev.quantization import (
    MacLine,
    Plan,
    Problem,
    choose_bits,
    front,
    mean_bits,
    trainable_parameters,
    weights_by_site,
    with_bits,
)
from qdbev.quantization.planning.bit_plan import RESOURCES
from qdbev.reporting.charts.pareto_chart import pareto_picture
from qdbev.reporting.tables.table import plain_table

WIDEST = "that of the widest bits in the table"
PICTURE = "pareto.png"


def run(
    profile: Profile, *, store: Store, force: bool = False, dry_run: bool = False, progress: bool = True
) -> Outcome:
    """Measure, choose and seal a bit plan.

    Args:
        profile: Its section ``bit_plan`` says from what, by what measure and under which budgets; model, quantization
            and calibration sections and the seed decide the result too.
        store: Where the plan goes.
        force: Measure again even if sealed.
        dry_run: Say what would be done.
        progress: Show bars.

    Raises:
        ValueError: No budget, one that cannot be kept, a profile whose bits are decided otherwise, another method than
            ptq, or calibration samples that are evaluated.
    """
    refuse_unplannable(profile)
    section = profile.bit_plan
    times = read_latency_table(section.latency_table) if section.latency and section.latency_table else None
    if dry_run:
        return Outcome(would_do=_steps(profile))
    detector, source = float_detector(profile, store=store)  # missing weights are said before scenes are made
    refuse_unable(detector, ability="stages")
    evaluated = evaluation_split(profile, progress=progress)
    split = load_split(profile.data, name="train", progress=progress)
    samples = calibration_samples(split.samples, count=profile.calibration.samples, seed=profile.calibration.seed)
    tokens = refuse_evaluation_samples(samples, evaluated=evaluated)
    scored = scored_split(split, profile=profile).samples if section.criterion == "nds" else []
    chosen_on = dict.fromkeys([*tokens, *refuse_evaluation_samples(scored, evaluated=evaluated)])
    measured = losses_key(profile, source=source.digest, data=split.digest, tokens=tokens)
    key = plan_key(measured, profile=profile, times=times)
    if not force and (known := store.find(KIND, key=key)):
        return _outcome(known, message="already planned; --force does it again")
    trainable = trainable_parameters(detector)
    folding = folded(detector, profile=profile, split=split)
    plan = detector_plan(detector, section=profile.quantization)
    macs = layer_macs(detector, profile=profile, split=split)
    problem = partial(
        make_problem,
        plan,
        weights=weights_by_site(detector, plan),
        macs=macs,
        trainable=trainable,
        profile=profile,
        packed=packed_costs(detector, folding, profile=profile) if section.bytes else None,
        times=times,
    )
    unmeasured = problem(losses=defaultdict(float))
    choose_bits(unmeasured, budgets=budget_shares(unmeasured, profile=profile))  # refused before hours of measuring
    earlier = None if force else known_losses(store, measured=measured)
    losses, notes = earlier or measured_losses(
        detector,
        folding,
        profile=profile,
        split=split,
        samples=samples,
        scratch=partial(store.scratch, KIND, key=measured),
        progress=progress,
    )
    content = chosen_plan(problem(losses=losses), plan=plan, macs=macs, profile=profile)
    content |= {"losses": [{**choice._asdict(), "loss": loss} for choice, loss in losses.items()], **notes}
    artifact = store.seal(
        KIND,
        profile=profile,
        key=key,
        write=lambda folder: _write(folder, content=content),
        parents={"float": source.digest},
        data={"train": split.digest, "calibration_tokens": list(chosen_on), "measured": measured, **_timed(times)},
        metrics={name: content[name] for name in ("predicted_loss", "uniform", "share", "mean_bits")},
        packages=package_versions(),
        notes=notes_on_motion(split),
        replace=force,
    )
    store.discard_scratch(KIND, key=measured)
    origin = "measured losses" if earlier is None else "losses of an earlier plan"
    return _outcome(artifact, message=f"chosen from {len(losses)} {origin}")


def refuse_unplannable(profile: Profile) -> None:
    """Refuse a profile that no plan can be made with; see ``run``."""
    section = profile.quantization
    if not profile.bit_plan.budgets:
        raise ValueError(
            "a bit plan needs a budget: give --budget size=0.125 (the size of W4), bytes=700000, bops=0.02 or "
            "latency=0.6, or several"
        )
    if profile.bit_plan.latency is not None and profile.bit_plan.latency_table is None:
        raise ValueError(
            "a budget of latency needs measured milliseconds: name a file by --set bit_plan.latency_table=FILE"
        )
    if section.is_float:
        raise ValueError(f"profile {profile.name} quantizes nothing; choose one such as w4a6")
    if section.plan is not None or section.first_last_bits is not None:
        name = "plan" if section.plan is not None else "first_last_bits"
        raise ValueError(f"quantization.{name} decides bits already; set it to null to have a plan made")
    if profile.calibration.label != "ptq":
        raise ValueError(
            f"losses are measured with method ptq alone, not {profile.calibration.label}; set calibration.method to "
            "ptq (default), and give the other to the command that takes the plan"
        )


def plan_key(measured: str, *, profile: Profile, times: LatencyTable | None = None) -> str:
    """The fingerprint of all that decides a plan: what was measured, and the budgets it was chosen under."""
    return fingerprint({"kind": KIND, "measured": measured, "budgets": profile.bit_plan.budgets, **_timed(times)})


def _timed(times: LatencyTable | None) -> dict[str, str]:
    return {} if times is None else {"latency_table": table_digest(times)}


def chosen_plan(problem: Problem, *, plan: Plan, macs: Sequence[MacLine], profile: Profile) -> dict[str, Any]:
    """The chosen bits, what they are predicted to cost, and what else could be had.

    Args:
        problem: Options and costs.
        plan: The uniform plan.
        macs: Of every layer.
        profile: Its budgets, and its bits for comparison.
    """
    budgets = budget_shares(problem, profile=profile)
    chosen = choose_bits(problem, budgets=budgets)
    curve = front(problem, over=next(iter(budgets)), budgets=budgets)
    layers = layer_rows(plan, chosen=chosen, macs=macs)
    mixed = with_bits(plan, {one["path"]: (one["weight_bits"], one["activation_bits"]) for one in layers})
    weights = {one["path"]: one["weights"] for one in layers}
    return {
        "criterion": profile.bit_plan.criterion,
        "budgets": profile.bit_plan.budgets,
        "layers": layers,
        **point(problem, chosen),
        "mean_bits": mean_bits(mixed, weights=weights, macs=macs)._asdict(),
        "uniform": uniform_points(problem, activation_bits=profile.quantization.activation_bits),
        "front": [point(problem, each) for each in curve],
    }


def _steps(profile: Profile) -> list[str]:
    """What would be done, a sentence a step."""
    section = profile.bit_plan
    bits = ", ".join(map(str, section.candidates))
    what = "weights and inputs" if len(measured_tensors(profile)) == 2 else "weights"
    alone = f"with each layer's {what} alone at {bits} bits"
    steps = [f"compare the outputs on {section.samples} training samples {alone}"]
    if section.criterion == "hessian":
        steps = [
            f"estimate the traces of the Hessian with {section.probes} probes on {section.samples} training "
            f"samples, and the error of each layer's weights at {bits} bits"
        ]
    if section.criterion == "nds":
        count = f"{evaluations(profile)} evaluations on {section.scenes} scenes of the train split"
        steps.append(f"score {alone}: {count}, less those that an interrupted run has kept")
    limits = [f"{name} at most {value:g}" for name, value in section.budgets.items() if name in ("size", "bops")]
    limits = [f"{' and '.join(limits)} of the float one"] if limits else []
    limits += [f"latency at most {section.latency:g} of {WIDEST}"] if section.latency else []
    limits += [f"at most {section.bytes:d} packed bytes"] if section.bytes else []
    return [*steps, f"choose bits of every layer: least predicted loss with {' and '.join(limits)}"]


def _write(folder: Path, *, content: Mapping[str, Any]) -> None:
    (folder / FILE).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    over = next(iter(content["budgets"]))
    picture = pareto_picture(
        [_flat(point, over) for point in content["front"]],
        chosen=_flat(content, over),
        uniform=[{"name": name, **_flat(point, over)} for name, point in content["uniform"].items()],
        resource=over,
    )
    (folder / PICTURE).write_bytes(picture)


def _flat(point: Mapping[str, Any], over: str) -> dict[str, float]:
    return {"share": point["share"][over], "loss": point["predicted_loss"]}


def _outcome(artifact: Artifact, *, message: str) -> Outcome:
    """The plan part by part, and how to use it."""
    content = plan_content(artifact)
    rows = [_row(part, content["layers"]) for part in dict.fromkeys(one["part"] for one in content["layers"])]
    rows.append(_row("all", content["layers"]))
    means = content["mean_bits"]
    label = mixed_label(means["weights"], means["inputs"])
    notes = [f"{label}: {_costs(content)}; predicted loss {content['predicted_loss']:.4g}"]
    notes += [f"{name}: {_costs(one)}; loss {one['predicted_loss']:.4g}" for name, one in content["uniform"].items()]
    if "scores" in content:
        notes.append(f"losses are NDS, of {content['scores']['float']:.4f} in float on the scenes that were scored")
    if content["criterion"] == "hessian" and {"bops", "latency"} & set(content["budgets"]):
        notes.append("traces are of weights, so inputs keep the bits of the profile")
    headers = ["part", "layers", "weight bits", "fewest", "most", "input bits", "share of bits", "loss"]
    title = f"Bit plan, by {content['criterion']}"
    tables = [plain_table("bit_plan", title=title, headers=headers, rows=rows, notes=notes)]
    use = f"use it: qdbev compress --plan {artifact.digest[:12]}, or --set quantization.plan={artifact.path.name}"
    messages = [message, f"picture: {artifact.file(PICTURE)}", use]
    return Outcome(artifact, tables=tables, metrics=dict(artifact.manifest.metrics), messages=messages)


def _costs(point: Mapping[str, Any]) -> str:
    """What a plan costs: shares, with the amount where it has a unit."""
    share = point["share"]
    packed = f" ({point.get('packed_bytes')})"
    shares = [f"{name} {share[name]:.4f}{packed if name == 'bytes' else ''}" for name in RESOURCES if name in share]
    shares = [one for one in shares if not one.startswith("latency")]
    costs = [f"{', '.join(shares)} of the float model"] if shares else []
    costs += (
        [f"latency {share['latency']:.4f} of {WIDEST} ({point['milliseconds']:.4g} ms)"] if "latency" in share else []
    )
    return ", ".join(costs)


def _row(part: str, layers: Sequence[Mapping[str, Any]]) -> list[Any]:
    """One part: mean, fewest and most bits of weights, mean bits of inputs, share of all the plan's bits, loss."""
    own = [one for one in layers if part in ("all", one["part"])]
    stored = sum(one["weights"] * one["weight_bits"] for one in own)
    products = sum(one["macs"] for one in own)
    bits = [one["weight_bits"] for one in own]
    return [
        part,
        len(own),
        round(stored / sum(one["weights"] for one in own), 2),
        min(bits),
        max(bits),
        round(sum(one["macs"] * one["activation_bits"] for one in own) / products, 2) if products else None,
        f"{stored / sum(one['weights'] * one['weight_bits'] for one in layers):.0%}",
        sum(one["loss"] for one in own),
    ]
