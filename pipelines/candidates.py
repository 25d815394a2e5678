"""The detector at every number of bits that a plan may choose, one copy each, and the loss of each choice alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from pipelines.assemble import device_of
from pipelines.calibration import observe
from pipelines.quantized import Quantized, with_quantizers
from pipelines.samples import Split
from profiles import Profile
from qdbev.data.nuscenes import Sample
from qdbev.detectors.bevformer import BEVFormer
from qdbev.quantization import Folding, observing

Tensors = Literal["weights", "inputs"]


class Choice(NamedTuple):
    """The weights, or the inputs, of one layer at some bits; all else in float."""

    path: str
    tensors: Tensors
    bits: int


Losses = dict[Choice, float]


def candidate_detectors(
    folded: BEVFormer,
    folding: Folding,
    *,
    profile: Profile,
    split: Split,
    samples: Sequence[Sample],
    inputs: bool,
    progress: bool = False,
) -> Iterator[tuple[int, Quantized]]:
    """Copies of a float detector with all layers at 2, 3, ... bits as the profile's candidates say, everything off.

    Args:
        folded: A float detector without batch norms; left as it is.
        folding: How it was folded.
        profile: Its quantization section says how ranges are chosen.
        split: Where the samples are from.
        samples: Set the ranges of inputs.
        inputs: Whether those are needed; ranges of weights need no sample.
        progress: Show bars.
    """
    for bits in profile.bit_plan.candidates:
        section = profile.quantization.model_copy(update={"weight_bits": bits, "activation_bits": bits})
        here = profile.model_copy(update={"quantization": section})
        quantized = with_quantizers(copy.deepcopy(folded), folding, profile=here)
        quantized.detector.eval().to(device_of(profile))
        if inputs:
            observe(quantized, split=split, samples=samples, profile=here, progress=progress)
        else:
            with observing(quantized.detector):
                pass  # the weights alone set their ranges
        yield bits, quantized


def spread(count: int, *, over: int) -> set[int]:
    """So many places, spread evenly over a sequence, each in the middle of its stretch.

    >>> sorted(spread(2, over=8)), sorted(spread(9, over=3))
    ([2, 6], [0, 1, 2])
    """
    return {int((index + 0.5) * over / count) for index in range(count)}
