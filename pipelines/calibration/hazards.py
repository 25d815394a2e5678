"""What of a job's detector quantizes badly, measured in the example run that quantization begins with."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pipelines.assembly.detector import Detector
from pipelines.assembly.example import Example
from pipelines.assembly.job import Job
from pipelines.assembly.quantized import detector_plan
from pipelines.store import processes
from profiles.wording import counted
from qdbev.quantization import Hazard, WatchedHazards, hazard_counts

_LOG = logging.getLogger(__name__)


def linted_example(detector: Detector, *, job: Job) -> WatchedHazards:
    """The example of the train split, whose first run says in a warning how many operations quantize badly.

    Args:
        detector: A float detector.
        job: Whose bits judge its layers.
    """
    example = Example(detector, profile=job.profile, split=job.split("train"))
    return WatchedHazards(detector, example, then=lambda watched: _warn(_judged(watched, detector=detector, job=job)))


def hazards_of(detector: Detector, *, job: Job) -> list[Hazard]:
    """The operations of a float detector that quantize badly at the bits of a job, measured on two frames."""
    watched = WatchedHazards(detector, Example(detector, profile=job.profile, split=job.split("train")))
    watched()
    return _judged(watched, detector=detector, job=job)


def _judged(watched: WatchedHazards, *, detector: Detector, job: Job) -> list[Hazard]:
    """What an example run showed, at the bits of a job."""
    plan = detector_plan(detector, section=job.profile.quantization)
    bits = {site.path: (site.weight_bits, site.activation_bits) for site in plan}
    return watched.hazards(bits | (job.bits or {}))


def in_words(hazards: Sequence[Hazard]) -> str:
    """How many there are, kind by kind."""
    kinds = ", ".join(f"{count} {code}" for code, count in hazard_counts(hazards).items())
    verb = "quantizes" if len(hazards) == 1 else "quantize"
    return f"{counted(len(hazards), 'operation')} {verb} badly: {kinds}"


def _warn(hazards: Sequence[Hazard]) -> None:
    if hazards and processes.is_first():
        _LOG.warning("lint: %s; `qdbev lint` with the same options lists them", in_words(hazards))
