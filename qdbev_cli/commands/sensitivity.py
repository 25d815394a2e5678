"""``qdbev sensitivity``: which part of the detector breaks under quantization."""

from __future__ import annotations

import enum
import re
from typing import Annotated

import typer

from pipelines.reporting.outcome import Outcome
from profiles.sections.bit_plan import Criterion, Target
from qdbev_cli.options import RunOptions, command


class Level(enum.StrEnum):
    """What is quantized alone."""

    part = "part"
    module = "module"


@command()
def measure(
    options: RunOptions,
    *,
    bits: Annotated[
        str | None, typer.Option(metavar="wNaM", help="Bits of weights and activations, such as w4a6.")
    ] = None,
    level: Annotated[Level, typer.Option(help="Each part alone and all, or every layer alone.")] = Level.part,
    plan: Annotated[bool, typer.Option("--plan", help="Choose the bits of each layer under a budget.")] = False,
    budget: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=LIMIT", help="With --plan: size=0.125 or size=36MB, bops=0.02; repeatable."),
    ] = None,
    candidates: Annotated[
        str | None, typer.Option(metavar="N,N,...", help="With --plan: bits to choose from, such as 2,3,4,6,8.")
    ] = None,
    criterion: Annotated[Criterion | None, typer.Option(help="With --plan: what a layer's bits cost.")] = None,
    target: Annotated[Target | None, typer.Option(help="With --plan: offer only bits that it executes.")] = None,
) -> Outcome:
    """Quantize each part alone: the drop of mAP and NDS.

    The paper's table 1: float, backbone, neck, encoder, decoder, all. With --plan instead: bits of their own for every
    layer, chosen under a budget; compress --plan takes them.

    Example: qdbev sensitivity --model nano --bits w4a4 --level part
    """
    weights, activations = _bits(bits) if bits else (None, None)
    choice = [
        *(_budget(text) for text in budget or ()),
        candidates and f"bit_plan.candidates=[{candidates}]",
        criterion and f"bit_plan.criterion={criterion}",
        target and f"bit_plan.target={target}",
    ]
    if any(choice) and not plan:
        raise ValueError("--budget, --candidates, --criterion and --target say how bits are chosen: give --plan too")
    job = options.job(
        weights and f"quantization.weight_bits={weights}",
        activations and f"quantization.activation_bits={activations}",
        *choice,
    )
    if plan:
        from pipelines.commands import plan_bits

        return plan_bits.run(job, dry_run=options.dry_run)
    from pipelines.commands import sensitivity

    return sensitivity.run(job, level=level.value, dry_run=options.dry_run)


def _bits(text: str) -> tuple[str, str]:
    match = re.fullmatch(r"w(\d+)a(\d+)", text.strip().lower())
    if match is None:
        raise ValueError(f"--bits is {text!r}; it must be wNaM with 2 to 8 or 32 bits each, such as w4a6")
    return match[1], match[2]


def _budget(text: str) -> str:
    match = re.fullmatch(r"(size|bytes|bops|latency)=([0-9.eE+-]+)([kKMG]i?B)?", text.strip())
    if match is None or (match[3] and match[1] not in ("size", "bytes")):
        raise ValueError(
            f"--budget is {text!r}; it must be size, bops or latency, =, and a share, such as size=0.125; or size or "
            "bytes, =, and an amount, such as size=36MB or bytes=700000"
        )
    name = "bytes" if match[3] else match[1]
    return f"bit_plan.{name}={match[2]}{match[3] or ''}"
