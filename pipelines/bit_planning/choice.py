"""The bits of every layer chosen together under budgets, from losses measured on training samples (HAWQ-V3).

Each layer's loss is measured alone, losses add up, and an integer program finds the best sum.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.assembly.detector import build_detector, refuse_unable
from pipelines.assembly.job import Job
from pipelines.assembly.quantized import detector_plan, folded, layer_macs
from pipelines.assembly.samples import notes_on
from pipelines.assembly.weights import float_artifact, float_detector, package_versions
from pipelines.bit_planning.costs import packed_costs
from pipelines.bit_planning.latency_table import LatencyTable, read_latency_table, table_digest
from pipelines.bit_planning.losses import known_losses, measured_losses
from pipelines.bit_planning.offered import offered_bits
from pipelines.bit_planning.problem import (
    budget_shares,
    layer_rows,
    make_problem,
    measured_tensors,
    point,
    uniform_points,
)
from pipelines.bit_planning.score_drop import scored_split
from pipelines.calibration.observing import refuse_evaluation_samples
from pipelines.lineage.keys import losses_key, plan_key
from pipelines.lineage.kinds import BIT_PLAN, BITS, PARETO_PICTURE
from pipelines.scoring.prediction import refuse_nothing_to_find
from pipelines.store.making import Content, Made, made
from profiles import Profile
from qdbev.quantization import (
    MacLine,
    Plan,
    Problem,
    choose_bits,
    front,
    mean_bits,
    not_counted,
    trainable_parameters,
    weights_by_site,
    with_bits,
)
from qdbev.reporting.charts.pareto_chart import pareto_picture


def bit_plan_of(job: Job) -> Made:
    """The sealed bit plan of a profile, measured and chosen where it is missing.

    Args:
        job: Its section ``bit_plan`` says from what, by what measure and under which budgets; model, quantization and
            calibration sections and the seed decide the result too.

    Raises:
        ValueError: A budget that cannot be kept, or calibration samples that are evaluated.
    """
    profile = job.profile
    times = latency_table_of(profile)
    refuse_unable(build_detector(profile.model, rig=profile.data.rig), ability="stages")
    source = float_artifact(job)  # missing weights are said before scenes are made
    evaluated, train = job.evaluation_split(), job.split("train")
    tokens = refuse_evaluation_samples(job.calibration_samples(), evaluated=evaluated)
    scored = scored_split(train, profile=profile).samples if profile.bit_plan.criterion == "nds" else []
    chosen_on = dict.fromkeys([*tokens, *refuse_evaluation_samples(scored, evaluated=evaluated)])
    measured = losses_key(
        profile, tensors=measured_tensors(profile), source=source.digest, data=train.digest, tokens=tokens
    )
    key = plan_key(measured, profile=profile, times=_timed(times))
    data = {"train": train.digest, "calibration_tokens": list(chosen_on), "measured": measured, **_timed(times)}
    make = partial(_plan_bits, job, times=times, source=source.digest, data=data)
    sealed = made(job, BIT_PLAN, key=key, make=make, known="already planned; --force does it again")
    job.store.discard_scratch(BIT_PLAN, key=measured)
    return sealed


def _plan_bits(job: Job, *, times: LatencyTable | None, source: str, data: Mapping[str, Any]) -> Content:
    """Measure and choose; ``data`` is what the manifest says of it."""
    profile, train, measured = job.profile, job.split("train"), str(data["measured"])
    if profile.bit_plan.criterion == "nds":
        refuse_nothing_to_find(scored_split(train, profile=profile))
    detector, _ = float_detector(job)
    trainable = trainable_parameters(detector)
    folding = folded(detector, profile=profile, split=train)
    plan = detector_plan(detector, section=profile.quantization)
    macs = layer_macs(detector, profile=profile, split=train)
    problem = partial(
        make_problem,
        plan,
        weights=weights_by_site(detector, plan),
        macs=macs,
        trainable=trainable,
        profile=profile,
        packed=packed_costs(detector, folding, profile=profile) if profile.bit_plan.bytes else None,
        times=times,
        offers=offered_bits(detector, plan, profile=profile),
    )
    unmeasured = problem(losses=defaultdict(float))
    choose_bits(unmeasured, budgets=budget_shares(unmeasured, profile=profile))  # refused before hours of measuring
    earlier = None if job.force else known_losses(job.store, measured=measured)
    scratch = partial(job.store.scratch, BIT_PLAN, key=measured)
    losses, notes = earlier or measured_losses(detector, folding, job=job, scratch=scratch)
    content = chosen_plan(problem(losses=losses), plan=plan, macs=macs, profile=profile)
    content |= {"losses": [{**choice._asdict(), "loss": loss} for choice, loss in losses.items()], **notes}
    origin = "measured losses" if earlier is None else "losses of an earlier plan"
    return Content(
        partial(_write, content=content),
        parents={"float": source},
        data=data,
        metrics={name: content[name] for name in ("predicted_loss", "uniform", "share", "mean_bits")},
        packages=package_versions(),
        notes=notes_on(train),
        message=f"chosen from {len(losses)} {origin}",
    )


def latency_table_of(profile: Profile) -> LatencyTable | None:
    """The measured milliseconds that a budget of latency is held against; None where none is set."""
    section = profile.bit_plan
    return read_latency_table(section.latency_table) if section.latency and section.latency_table else None


def refuse_unplannable(profile: Profile) -> None:
    """Refuse a profile that no plan can be made with.

    Raises:
        ValueError: It has no budget, or its bits or its calibration method are decided otherwise.
    """
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
    others = front(problem, over=next(iter(budgets)), budgets=budgets)
    layers = layer_rows(plan, chosen=chosen, macs=macs)
    mixed = with_bits(plan, {row["path"]: (row["weight_bits"], row["activation_bits"]) for row in layers})
    weights = {row["path"]: row["weights"] for row in layers}
    return {
        "criterion": profile.bit_plan.criterion,
        "budgets": profile.bit_plan.budgets,
        **({"target": profile.bit_plan.target} if profile.bit_plan.target else {}),
        "layers": layers,
        **point(problem, chosen),
        "mean_bits": mean_bits(mixed, weights=weights, macs=macs)._asdict(),
        "uniform": uniform_points(problem, activation_bits=profile.quantization.activation_bits),
        "front": [point(problem, choice) for choice in others],
        **({"not_counted": unseen} if (unseen := not_counted(macs)) else {}),
    }


def _write(folder: Path, *, content: Mapping[str, Any]) -> None:
    (folder / BITS).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    over = next(iter(content["budgets"]))
    picture = pareto_picture(
        [_flat(point, over) for point in content["front"]],
        chosen=_flat(content, over),
        uniform=[{"name": name, **_flat(point, over)} for name, point in content["uniform"].items()],
        resource=over,
    )
    (folder / PARETO_PICTURE).write_bytes(picture)


def _flat(point: Mapping[str, Any], over: str) -> dict[str, float]:
    return {"share": point["share"][over], "loss": point["predicted_loss"]}
