"""``qdbev sensitivity``: which part of the detector breaks under quantization."""

from __future__ import annotations

import enum
import re
from typing import Annotated

import typer

from qdbev_cli.console import Result
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
) -> Result:
    """Quantize each part alone: the drop of mAP and NDS.

    The paper's table 1: float, backbone, neck, encoder, decoder, all.

    Example: qdbev sensitivity --model nano --bits w4a4 --level part
    """
    from pipelines import sensitivity

    weights, activations = _bits(bits) if bits else (None, None)
    profile = options.load_profile(
        weights and f"quantization.weight_bits={weights}",
        activations and f"quantization.activation_bits={activations}",
    )
    return sensitivity.run(profile, bits=bits, level=level.value, **options.how())


def _bits(text: str) -> tuple[str, str]:
    match = re.fullmatch(r"w(\d+)a(\d+)", text.strip().lower())
    if match is None:
        raise ValueError(f"--bits is {text!r}; it must be wNaM with 2 to 8 or 32 bits each, such as w4a6")
    return match[1], match[2]
