"""sensitivity --plan: the bits of every layer chosen together under budgets, from losses measured on training samples.

Each layer's loss is measured alone, losses add up, and an integer program finds the best sum (HAWQ-V3).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.assemble import float_detector, package_versions
from pipelines.bit_plans import FILE, KIND, mixed_label
from pipelines.calibration import refuse_evaluation_samples
from pipelines.candidates import Choice, Losses, Tensors, candidate_detectors
from pipelines.hessian_error import hessian_losses
from pipelines.outcome import dry, finished, table
from pipelines.output_error import output_losses
from pipelines.quantized import detector_plan, folded, layer_macs
from pipelines.samples import Split, load_split
from pipelines.scoring import evaluation_split
from pipelines.store import Artifact, Store
from profiles import Profile, fingerprint
from qdbev.data.calibration import calibration_samples
from qdbev.data.nuscenes import Sample
from qdbev.detectors.bevformer import BEVFormer
from qdbev.quantization import (
    FLOAT_BITS,
    MacLine,
    Option,
    Plan,
    Problem,
    choose_bits,
    front,
    mean_bits,
    total_loss,
    trainable_parameters,
    weights_by_site,
    with_bits,
)
from qdbev.reporting.pareto_chart import pareto_picture

PICTURE = "pareto.png"
Chosen = Mapping[str, Option]


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
    detector, source = float_detector(profile, store=store)  # missing weights are said before scenes are made
    evaluated = evaluation_split(profile, progress=progress)
    split = load_split(profile.data, name="train", progress=progress)
    samples = calibration_samples(split.samples, count=profile.calibration.samples, seed=profile.calibration.seed)
    tokens = refuse_evaluation_samples(samples, evaluated=evaluated)
    key = plan_key(profile, source=source.digest, data=split.digest, tokens=tokens)
    if not force and (known := store.find(KIND, key=key)):
        return _outcome(known, message="already planned; --force does it again")
    content = planned(detector, profile=profile, split=split, samples=samples, progress=progress)
    artifact = store.seal(
        KIND,
        profile=profile,
        key=key,
        write=lambda folder: _write(folder, content=content),
        parents={"float": source.digest},
        data={"train": split.digest, "calibration_tokens": tokens},
        metrics={name: content[name] for name in ("predicted_loss", "uniform", "share", "mean_bits")},
        packages=package_versions(),
        replace=force,
    )
    return _outcome(artifact, message=f"chosen from {len(content['losses'])} measured losses")


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


def plan_key(profile: Profile, *, source: str, data: str, tokens: Sequence[str]) -> str:
    """The fingerprint of all that decides a plan.

    Args:
        profile: Its model, quantization, calibration and bit_plan sections; with Hessian traces those of training too.
        source: Digest of the float artifact.
        data: Digest of the train split.
        tokens: The calibration samples.
    """
    decides: dict[str, Any] = {
        "kind": KIND,
        "parent": source,
        "model": profile.model.content() | {"weights": None},
        "quantization": profile.quantization.content(),
        "calibration": profile.calibration.content(),
        "bit_plan": profile.bit_plan.content(),
        "data": data,
        "tokens": list(tokens),
    }
    if profile.bit_plan.criterion == "hessian":
        queue = [profile.data.queue_length, profile.data.drop_one_frame]
        decides |= {"seed": profile.seed, "qat": profile.qat.content(), "queue": queue}
    return fingerprint(decides)


def planned(
    detector: BEVFormer, *, profile: Profile, split: Split, samples: Sequence[Sample], progress: bool = False
) -> dict[str, Any]:
    """The content of a plan: the chosen bits, what they are predicted to cost, and what else could be had.

    Args:
        detector: Float; folded in place.
        profile: See :func:`run`.
        split: Of training.
        samples: Calibration samples of it.
        progress: Show bars.
    """
    trainable = trainable_parameters(detector)
    folding = folded(detector, profile=profile, split=split)
    plan = detector_plan(detector, section=profile.quantization)
    weights, macs = weights_by_site(detector, plan), layer_macs(detector, profile=profile, split=split)
    tensors = _measured(profile)
    copies = dict(
        candidate_detectors(
            detector,
            folding,
            profile=profile,
            split=split,
            samples=samples,
            inputs="inputs" in tensors,
            progress=progress,
        )
    )
    if profile.bit_plan.criterion == "hessian":
        losses, traces = hessian_losses(copies, profile=profile, split=split, samples=samples)
    else:
        losses = output_losses(
            copies, profile=profile, split=split, samples=samples, tensors=tensors, progress=progress
        )
        traces = {}
    problem = make_problem(plan, losses=losses, weights=weights, macs=macs, trainable=trainable, profile=profile)
    chosen = choose_bits(problem, budgets=profile.bit_plan.budgets)
    over = next(iter(profile.bit_plan.budgets))
    curve = front(problem, over=over, budgets=profile.bit_plan.budgets)
    layers = _layers(plan, chosen=chosen, weights=weights, macs=macs)
    mixed = with_bits(plan, {one["path"]: (one["weight_bits"], one["activation_bits"]) for one in layers})
    return {
        "criterion": profile.bit_plan.criterion,
        "budgets": dict(profile.bit_plan.budgets),
        "layers": layers,
        **_point(problem, chosen),
        "mean_bits": mean_bits(mixed, weights=weights, macs=macs)._asdict(),
        "uniform": _uniform(problem, activation_bits=profile.quantization.activation_bits),
        "front": [_point(problem, each) for each in curve],
        "losses": [{**choice._asdict(), "loss": loss} for choice, loss in losses.items()],
        "traces": traces,
    }


def make_problem(
    plan: Plan,
    *,
    losses: Losses,
    weights: Mapping[str, int],
    macs: Sequence[MacLine],
    trainable: int,
    profile: Profile,
) -> Problem:
    """Options of every quantized layer, with their costs by the rules of the report.

    Args:
        plan: The uniform plan.
        losses: Of weights, and of inputs where those are chosen.
        weights: Per layer.
        macs: Per layer.
        trainable: Trainable parameters of the float detector; what is no weight of a layer counts the profile's bits.
        profile: Its candidates, budgets and bits.
    """
    section, candidates = profile.quantization, profile.bit_plan.candidates
    products = {line.path: line.macs for line in macs if line.is_layer}
    options = {}
    for site in plan.quantized:
        free = "inputs" in _measured(profile) and site.kind != "embedding" and site.activation_bits < FLOAT_BITS
        options[site.path] = [
            Option(
                weight_bits=w,
                activation_bits=a,
                loss=losses[Choice(site.path, "weights", w)] + losses.get(Choice(site.path, "inputs", a), 0.0),
                size=w * weights[site.path],
                bops=w * a * products.get(site.path, 0),
            )
            for w in candidates
            for a in (candidates if free else (site.activation_bits,))
        ]
    in_float = sum(count for path, count in products.items() if path not in options)
    return Problem(
        options=options,
        fixed={
            "size": (trainable - sum(weights.values())) * section.weight_bits,
            "bops": in_float * FLOAT_BITS**2,
        },
        whole={"size": trainable * FLOAT_BITS, "bops": sum(products.values()) * FLOAT_BITS**2},
    )


def _measured(profile: Profile) -> tuple[Tensors, ...]:
    """Inputs are chosen only where something limits them, and where their loss can be measured."""
    section = profile.bit_plan
    limited = section.bops is not None and section.criterion == "output"
    return ("weights", "inputs") if limited and profile.quantization.activation_bits < FLOAT_BITS else ("weights",)


def _point(problem: Problem, chosen: Chosen) -> dict[str, Any]:
    share = {name: problem.share(chosen, resource=name) for name in problem.whole}
    return {"predicted_loss": total_loss(chosen), "share": share}


def _uniform(problem: Problem, *, activation_bits: int) -> dict[str, Any]:
    """The same numbers for plans that give every layer the same bits, by label."""
    found = {}
    for bits in sorted({option.weight_bits for each in problem.options.values() for option in each}):
        wanted = (activation_bits, FLOAT_BITS)  # embedding tables have no inputs
        same = {
            path: [one for one in each if one.weight_bits == bits and one.activation_bits in wanted]
            for path, each in problem.options.items()
        }
        if all(same.values()):
            point = _point(problem, {path: each[0] for path, each in same.items()})
            found[f"W{bits}A{activation_bits}"] = point
    return found


def _layers(plan: Plan, *, chosen: Chosen, weights: Mapping[str, int], macs: Sequence[MacLine]) -> list[dict[str, Any]]:
    products = {line.path: line.macs for line in macs if line.is_layer}
    return [
        {
            "path": site.path,
            "part": site.part,
            "weight_bits": chosen[site.path].weight_bits,
            "activation_bits": chosen[site.path].activation_bits,
            "loss": chosen[site.path].loss,
            "weights": weights[site.path],
            "macs": products.get(site.path, 0),
        }
        for site in plan.quantized
    ]


def _steps(profile: Profile) -> list[str]:
    """What would be done, a sentence a step."""
    section = profile.bit_plan
    bits = ", ".join(map(str, section.candidates))
    what = "weights and inputs" if len(_measured(profile)) == 2 else "weights"
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
    content: Any = json.loads(artifact.file(FILE).read_text(encoding="utf-8"))
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
