"""sensitivity --plan: the bits of every layer, chosen together under budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.assembly.job import Job
from pipelines.bit_planning.choice import bit_plan_of, latency_table_of, refuse_unplannable
from pipelines.bit_planning.losses import choosing_work, evaluations
from pipelines.bit_planning.problem import measured_tensors
from pipelines.costs.forecast import inference_memory
from pipelines.costs.hours import hours, scene_samples
from pipelines.costs.preflight import preflight
from pipelines.lineage.bit_plan import mixed_label, plan_content
from pipelines.lineage.kinds import PARETO_PICTURE
from pipelines.reporting.outcome import Outcome
from pipelines.store.artifacts import Artifact
from profiles import Profile
from profiles.wording import counted
from qdbev.quantization.planning.bit_plan import RESOURCES
from qdbev.reporting.tables.costs import not_counted_notes
from qdbev.reporting.tables.table import plain_table

WIDEST = "that of the widest bits in the table"


def run(job: Job, *, dry_run: bool = False) -> Outcome:
    """Measure, choose and seal a bit plan.

    Args:
        job: Its section ``bit_plan`` says from what, by what measure and under which budgets; model, quantization
            and calibration sections and the seed decide the result too.
        dry_run: Say what would be done.

    Raises:
        ValueError: No budget, one that cannot be kept, a profile whose bits are decided otherwise, another method than
            ptq, or calibration samples that are evaluated.
    """
    refuse_unplannable(job.stated)
    said = preflight(job, dry_run=dry_run)
    if dry_run:
        latency_table_of(job.stated)  # refused here as it would be then
        frames = choosing_work(job.stated, scene_samples=scene_samples(job.stated, scenes=job.stated.bit_plan.scenes))
        took = hours(job, frames=frames, what="measuring all choices")
        messages = [*said, *inference_memory(job.stated), took]
        return Outcome(would_do=_steps(job.stated), messages=messages)
    artifact, message = bit_plan_of(job)
    return _outcome(artifact, message=message)


def _steps(profile: Profile) -> list[str]:
    """What would be done, a sentence a step."""
    section = profile.bit_plan
    bits = ", ".join(map(str, section.candidates))
    what = "weights and inputs" if len(measured_tensors(profile)) == 2 else "weights"
    alone = f"with each layer's {what} alone at {bits} bits"
    steps = [f"compare the outputs on {counted(section.samples, 'training sample')} {alone}"]
    if section.criterion == "hessian":
        steps = [
            f"estimate the traces of the Hessian with {counted(section.probes, 'probe')} on "
            f"{counted(section.samples, 'training sample')}, and the error of each layer's weights at {bits} bits"
        ]
    if section.criterion == "nds":
        count = (
            f"{counted(evaluations(profile), 'evaluation')} on {counted(section.scenes, 'scene')} of the train split"
        )
        steps.append(f"score {alone}: {count}, less those that an interrupted run has kept")
    limits = [f"{name} at most {value:g}" for name, value in section.budgets.items() if name in ("size", "bops")]
    limits = [f"{' and '.join(limits)} of the float one"] if limits else []
    limits += [f"latency at most {section.latency:g} of {WIDEST}"] if section.latency else []
    limits += [f"at most {section.bytes:d} packed bytes"] if section.bytes else []
    return [*steps, f"choose bits of every layer: least predicted loss with {' and '.join(limits)}"]


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
    notes += not_counted_notes(content.get("not_counted", ()))
    headers = ["part", "layers", "weight bits", "fewest", "most", "input bits", "share of bits", "loss"]
    title = f"Bit plan, by {content['criterion']}"
    tables = [plain_table("bit_plan", title=title, headers=headers, rows=rows, notes=notes)]
    use = f"use it: qdbev compress --plan {artifact.digest[:12]}, or --set quantization.plan={artifact.path.name}"
    messages = [message, f"picture: {artifact.file(PARETO_PICTURE)}", use]
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
