"""sensitivity --plan: the bits of every layer chosen together under budgets, from losses measured on training samples.

Each layer's loss is measured alone, losses add up, and an integer program finds the best sum (HAWQ-V3).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipelines.assemble import float_detector, only_bevformer, package_versions
from pipelines.bit_plans import FILE, KIND, mixed_label
from pipelines.bit_problem import layer_rows, make_problem, measured_tensors, point, uniform_points
from pipelines.calibration import refuse_evaluation_samples
from pipelines.candidates import Choice, Losses, candidate_detectors
from pipelines.hessian_error import hessian_losses
from pipelines.outcome import dry, finished, table
from pipelines.output_error import output_losses
from pipelines.quantized import detector_plan, folded, layer_macs
from pipelines.samples import Split, load_split, notes_on_motion
from pipelines.scoring import evaluation_split
from pipelines.store import Artifact, Store
from profiles import Profile, fingerprint
from qdbev.data.calibration import calibration_samples
from qdbev.data.nuscenes import Sample
from qdbev.detectors.bevformer import BEVFormer
from qdbev.quantization import (
    Folding,
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
from qdbev.reporting.pareto_chart import pareto_picture

PICTURE = "pareto.png"


def run(
    profile: Profile, *, store: Store, force: bool = False, dry_run: bool = False, progress: bool = True
) -> dict[str, Any]:
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
    if dry_run:
        return dry(_steps(profile))
    found, source = float_detector(profile, store=store)  # missing weights are said before scenes are made
    detector = only_bevformer(found, what="a bit plan")
    evaluated = evaluation_split(profile, progress=progress)
    split = load_split(profile.data, name="train", progress=progress)
    samples = calibration_samples(split.samples, count=profile.calibration.samples, seed=profile.calibration.seed)
    tokens = refuse_evaluation_samples(samples, evaluated=evaluated)
    measured = losses_key(profile, source=source.digest, data=split.digest, tokens=tokens)
    key = plan_key(measured, profile=profile)
    if not force and (known := store.find(KIND, key=key)):
        return _outcome(known, message="already planned; --force does it again")
    trainable = trainable_parameters(detector)
    folding = folded(detector, profile=profile, split=split)
    plan = detector_plan(detector, section=profile.quantization)
    weights, macs = weights_by_site(detector, plan), layer_macs(detector, profile=profile, split=split)
    earlier = None if force else known_losses(store, measured=measured)
    losses, traces = earlier or measured_losses(
        detector, folding, profile=profile, split=split, samples=samples, progress=progress
    )
    problem = make_problem(plan, losses=losses, weights=weights, macs=macs, trainable=trainable, profile=profile)
    content = chosen_plan(problem, plan=plan, macs=macs, profile=profile)
    content |= {"losses": [{**choice._asdict(), "loss": loss} for choice, loss in losses.items()], "traces": traces}
    artifact = store.seal(
        KIND,
        profile=profile,
        key=key,
        write=lambda folder: _write(folder, content=content),
        parents={"float": source.digest},
        data={"train": split.digest, "calibration_tokens": tokens, "measured": measured},
        metrics={name: content[name] for name in ("predicted_loss", "uniform", "share", "mean_bits")},
        packages=package_versions(),
        notes=notes_on_motion(split),
        replace=force,
    )
    origin = "measured losses" if earlier is None else "losses of an earlier plan"
    return _outcome(artifact, message=f"chosen from {len(losses)} {origin}")


def refuse_unplannable(profile: Profile) -> None:
    """Refuse a profile that no plan can be made with; see :func:`run`."""
    section = profile.quantization
    if not profile.bit_plan.budgets:
        raise ValueError("a bit plan needs a budget: give --budget size=0.125 (the size of W4), bops=0.02, or both")
    if section.is_float:
        raise ValueError(f"profile {profile.name} quantizes nothing; choose one such as w4a6")
    if section.plan is not None or section.first_last_bits is not None:
        name = "plan" if section.plan is not None else "first_last_bits"
        raise ValueError(f"quantization.{name} decides bits already; set it to null to have a plan made")
    if profile.calibration.method != "ptq":
        raise ValueError(
            f"losses are measured with method ptq alone, not {profile.calibration.method}; set calibration.method to "
            "ptq (default), and give the other to the command that takes the plan"
        )


def plan_key(measured: str, *, profile: Profile) -> str:
    """The fingerprint of all that decides a plan: what was measured, and the budgets it was chosen under."""
    return fingerprint({"kind": KIND, "measured": measured, "budgets": profile.bit_plan.budgets})


def losses_key(profile: Profile, *, source: str, data: str, tokens: Sequence[str]) -> str:
    """The fingerprint of all that decides the losses; other budgets are met from the same ones.

    Args:
        profile: Its model, quantization, calibration and bit_plan sections; with Hessian traces those of training too.
        source: Digest of the float artifact.
        data: Digest of the train split.
        tokens: The calibration samples.
    """
    section = profile.bit_plan
    decides: dict[str, Any] = {
        "parent": source,
        "model": profile.model.content() | {"weights": None},
        "quantization": profile.quantization.content(),
        "calibration": profile.calibration.content(),
        "criterion": [section.criterion, section.candidates, section.samples, measured_tensors(profile)],
        "data": data,
        "tokens": list(tokens),
    }
    if section.criterion == "hessian":
        queue = [profile.data.queue_length, profile.data.drop_one_frame]
        decides |= {"seed": profile.seed, "probes": section.probes, "qat": profile.qat.content(), "queue": queue}
    return fingerprint(decides)


def measured_losses(
    detector: BEVFormer,
    folding: Folding,
    *,
    profile: Profile,
    split: Split,
    samples: Sequence[Sample],
    progress: bool = False,
) -> tuple[Losses, dict[str, float]]:
    """The losses of every layer's choices by the profile's criterion, and the traces where those are part of it.

    Args:
        detector: Float, folded.
        folding: How.
        profile: See :func:`run`.
        split: Of training.
        samples: Calibration samples of it.
        progress: Show bars.
    """
    tensors = measured_tensors(profile)
    at = partial(candidate_detectors, profile=profile, split=split, samples=samples, progress=progress)
    copies = dict(at(detector, folding, inputs="inputs" in tensors))
    if profile.bit_plan.criterion == "hessian":
        return hessian_losses(copies, profile=profile, split=split, samples=samples)
    losses = output_losses(copies, profile=profile, split=split, samples=samples, tensors=tensors, progress=progress)
    return losses, {}


def known_losses(store: Store, *, measured: str) -> tuple[Losses, dict[str, float]] | None:
    """The losses of an earlier plan that were measured in the same way, such as one for another budget; or None."""
    for artifact in store.list():
        if artifact.manifest.kind == KIND and artifact.manifest.data.get("measured") == measured:
            content = _content(store.verify(artifact))
            found = {Choice(one["path"], one["tensors"], one["bits"]): one["loss"] for one in content["losses"]}
            return found, content["traces"]
    return None


def chosen_plan(problem: Problem, *, plan: Plan, macs: Sequence[MacLine], profile: Profile) -> dict[str, Any]:
    """The chosen bits, what they are predicted to cost, and what else could be had.

    Args:
        problem: Options and costs.
        plan: The uniform plan.
        macs: Of every layer.
        profile: Its budgets, and its bits for comparison.
    """
    budgets = profile.bit_plan.budgets
    chosen = choose_bits(problem, budgets=budgets)
    curve = front(problem, over=next(iter(budgets)), budgets=budgets)
    layers = layer_rows(plan, chosen=chosen, macs=macs)
    mixed = with_bits(plan, {one["path"]: (one["weight_bits"], one["activation_bits"]) for one in layers})
    weights = {one["path"]: one["weights"] for one in layers}
    return {
        "criterion": profile.bit_plan.criterion,
        "budgets": dict(budgets),
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
    how = {
        "output": f"compare the outputs on {section.samples} training samples with each layer's {what} alone",
        "hessian": f"estimate the traces of the Hessian with {section.probes} probes on {section.samples} training "
        "samples, and the error of each layer's weights",
    }[section.criterion]
    limits = " and ".join(f"{name} at most {share:g}" for name, share in section.budgets.items())
    return [f"{how} at {bits} bits", f"choose bits of every layer: least predicted loss with {limits} of the float one"]


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


def _outcome(artifact: Artifact, *, message: str) -> dict[str, Any]:
    """The plan part by part, and how to use it."""
    content = _content(artifact)
    rows = [_row(part, content["layers"]) for part in dict.fromkeys(one["part"] for one in content["layers"])]
    rows.append(_row("all", content["layers"]))
    means, share = content["mean_bits"], content["share"]
    label = mixed_label(means["weights"], means["inputs"])
    taken = ", ".join(f"{name} {value:.4f}" for name, value in share.items())
    notes = [f"{label}: {taken} of the float model; predicted loss {content['predicted_loss']:.4g}"]
    notes += [
        f"{name}: size {one['share']['size']:.4f}, bops {one['share']['bops']:.4f}; loss {one['predicted_loss']:.4g}"
        for name, one in content["uniform"].items()
    ]
    headers = ["part", "layers", "weight bits", "fewest", "most", "input bits", "share of bits", "loss"]
    tables = [table(f"Bit plan, by {content['criterion']}", headers=headers, rows=rows, notes=notes)]
    use = f"use it: qdbev compress --plan {artifact.digest[:12]}, or --set quantization.plan={artifact.path.name}"
    messages = [message, f"picture: {artifact.file(PICTURE)}", use]
    return finished(artifact, tables=tables, metrics=dict(artifact.manifest.metrics), messages=messages)


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


def _content(artifact: Artifact) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(artifact.file(FILE).read_text(encoding="utf-8"))
    return document
