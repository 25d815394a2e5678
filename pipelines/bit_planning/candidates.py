"""The detector at every number of bits that a plan may choose, one copy each, and the loss of each choice alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

from pipelines.assembly.detector import Detector
from pipelines.assembly.job import Job
from pipelines.assembly.quantized import Quantized, with_quantizers
from pipelines.calibration.observing import observe
from profiles import Profile
from qdbev.quantization import Folding, observing, quantized_layers

Tensors = Literal["weights", "inputs"]


class Choice(NamedTuple):
    """The weights, or the inputs, of one layer at some bits; all else in float."""

    path: str
    tensors: Tensors
    bits: int


Losses = dict[Choice, float]


class Measured(NamedTuple):
    """The losses of all choices, and what they come from."""

    losses: Losses
    notes: dict[str, Any]
    """Of a plan's content: ``traces`` of the Hessian by weight, empty where there are none; ``scores`` as measured."""


def candidate_detectors(
    folded: Detector,
    folding: Folding,
    *,
    job: Job,
    bits: Sequence[int],
    inputs: bool,
) -> Iterator[tuple[int, Quantized]]:
    """Copies of a float detector with all layers at each of ``bits``, everything off.

    Args:
        folded: A float detector without batch norms; left as it is.
        folding: How it was folded.
        job: Its quantization section says how ranges are chosen, ``bit_plan.observer`` whether as calibration chooses
            them or as training does; its calibration samples set the ranges of inputs.
        bits: Numbers of bits.
        inputs: Whether those are needed; ranges of weights need no sample.
    """
    profile, ranges = job.profile, training_ranges(job.profile)
    for width in bits:
        section = profile.quantization.model_copy(update={"weight_bits": width, "activation_bits": width})
        here = profile.model_copy(update={"quantization": section})
        quantized = with_quantizers(copy.deepcopy(folded), folding, profile=here)
        quantized.detector.eval().to(job.device)
        if inputs:
            observe(quantized, job=job, observer=ranges.observer, unsigned=ranges.unsigned, progress=job.progress)
        else:
            with observing(quantized.detector, observer=ranges.observer):
                pass  # the weights alone set their ranges
        yield width, quantized


class Ranges(NamedTuple):
    """What chooses ranges in place of the profile's observers, as ``observe`` takes it; None leaves them."""

    observer: str | None
    unsigned: bool | None


def training_ranges(profile: Profile) -> Ranges:
    """How training chooses the ranges it starts from, where the profile wants losses measured with those.

    >>> from profiles import load
    >>> training_ranges(load("w4a6")), training_ranges(load("w4a6", overrides=["bit_plan.observer=training"]))
    (Ranges(observer=None, unsigned=None), Ranges(observer='mse', unsigned=True))
    """
    section = profile.quantization
    if profile.bit_plan.observer == "calibration" or section.training_observer is None:
        return Ranges(None, None)
    return Ranges(section.training_observer, section.training_sign == "auto")


def choices_of(detector: Detector, *, tensors: Tensors, bits: int) -> Iterator[tuple[Choice, str]]:
    """The choice of each layer that has such tensors, and the part it belongs to."""
    for path, layer in quantized_layers(detector).items():
        if tensors == "weights" or any(layer.input_quantizers()):
            yield Choice(path, tensors, bits), layer.site.part


def spread(count: int, *, over: int) -> set[int]:
    """So many places, spread evenly over a sequence, each in the middle of its stretch.

    >>> sorted(spread(2, over=8)), sorted(spread(9, over=3))
    ([2, 6], [0, 1, 2])
    """
    return {int((index + 0.5) * over / count) for index in range(count)}
