"""What fields of a profile say against each other: one alone is right, both together cannot be, or leave one unused.

A section refuses what contradicts itself within a few fields; here stand relations across sections, and fields that
only some choice of another reads. Sealed manifests are not asked: what was ignored when they were made stays readable.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from profiles.detectors.queries import MOST_BOXES, HeadProfile
from profiles.document import Document
from profiles.sections.evaluation import EvaluationProfile
from profiles.sections.model import ModelProfile
from profiles.sections.quantization import QuantizationProfile
from profiles.sections.schedule import ProgressiveSchedule, stage_parts
from profiles.wording import counted


class Sections(Protocol):
    """A whole profile, by what is asked here."""

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Names and values of all fields."""

    @property
    def model(self) -> ModelProfile:
        """The detector."""

    @property
    def quantization(self) -> QuantizationProfile:
        """Bits, scales and observers."""

    @property
    def qat(self) -> ProgressiveSchedule:
        """Training in stages."""

    @property
    def evaluation(self) -> EvaluationProfile:
        """How detectors are scored."""


def contradictions(profile: Sections) -> Iterator[str]:
    """A sentence for each contradiction, the field in front.

    Args:
        profile: Each of its sections right in itself.
    """
    yield from _unread(profile)
    yield from _percentile(profile)
    yield from _stages(profile)
    yield from _boxes(profile)


def _unread(profile: Sections) -> Iterator[str]:
    """What each section says of its fields that nothing reads."""
    for name, section in profile:
        for field, (other, values) in section.read_where.items() if isinstance(section, Document) else ():
            value, chosen = getattr(section, field), getattr(section, other)
            if chosen not in values and value != type(section).model_fields[field].default:
                where = f"{name}.{other} is {' or '.join(values)}"
                yield f"{name}.{field} is {value}, which is read where {where}; here it is {chosen}"


def _percentile(profile: Sections) -> Iterator[str]:
    section = profile.quantization
    observers = (section.weight_observer, section.activation_observer, section.training_observer)
    if section.percentile != QuantizationProfile.model_fields["percentile"].default and "percentile" not in observers:
        yield (
            f"quantization.percentile is {section.percentile:g}, and no observer of quantization is percentile, which "
            "alone reads it"
        )


def _stages(profile: Sections) -> Iterator[str]:
    qat = profile.qat
    steps = [qat.steps(group) for group in stage_parts(qat.stages, without=profile.model.empty_parts)]
    if qat.quantizer_delay and qat.quantizer_delay >= min(steps):
        shortest = counted(min(steps), "step")
        yield (
            f"qat.quantizer_delay is {qat.quantizer_delay} and the shortest stage has {shortest}: what it adds would "
            "never train quantized; choose fewer"
        )
    if qat.freeze_ranges_after is not None and max(steps) and qat.freeze_ranges_after >= max(steps):
        longest = counted(max(steps), "step")
        yield (
            f"qat.freeze_ranges_after is {qat.freeze_ranges_after} and the longest stage has {longest}: ranges would "
            "never stop; choose fewer, or null"
        )


def _boxes(profile: Sections) -> Iterator[str]:
    wanted = profile.evaluation.max_boxes
    if isinstance(getattr(profile.model, "head", None), HeadProfile) and wanted > MOST_BOXES:
        yield f"evaluation.max_boxes is {wanted}, and {profile.model.name} gives {MOST_BOXES} boxes a sample at most"
