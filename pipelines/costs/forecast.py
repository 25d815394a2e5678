"""What a command would need, said before it starts: samples, epochs, memory; nothing is generated or loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pipelines.assembly.detector import Unable
from pipelines.costs.epochs import epochs_of, is_absent, sample_count
from pipelines.costs.memory import float_step_bytes, inference_bytes, memory
from pipelines.store.integrity import reading_data
from pipelines.training.teacher import keeps
from profiles import Profile
from profiles.sections.data import DataProfile
from profiles.sections.schedule import Optimisation

_GIGABYTE = 2**30


def forecast(profile: Profile, *, stages: list[tuple[str, ...]]) -> list[str]:
    """Sentences about data, epochs and memory.

    Args:
        profile: What would be run.
        stages: The parts that each stage of QAT adds.

    Raises:
        UnusableInput: The data set is damaged, or of another version.
    """
    data = profile.data
    with reading_data():
        train, val = (sample_count(data, split=split) for split in ("train", "val"))
    qat, distillation = profile.qat, profile.distillation.schedule
    steps: dict[str, tuple[int, Optimisation]] = {"QAT": (sum(qat.steps(group) for group in stages), qat)}
    steps |= {"distillation": (distillation.steps, distillation)} if distillation.steps else {}
    epochs = [
        f"{_epochs(count, schedule=schedule, samples=train)} in {name}" for name, (count, schedule) in steps.items()
    ]
    return [
        f"data: {train:,} training and {val:,} validation samples of {data.source}{_absence(data)}",
        f"epochs of the training samples, on one process: {', '.join(epochs)}",
        *(distillation_forecast(profile) if distillation.steps else ()),
        *training_memory(profile, distils=bool(distillation.steps)),
    ]


def distillation_forecast(profile: Profile) -> list[str]:
    """A sentence about what is kept of the teacher, where any is wanted.

    Raises:
        ValueError: It must be kept and cannot be, or the data set is damaged.
    """
    if profile.distillation.cache_teacher == "never":
        return []
    return [keeps(profile, samples=sample_count(profile.data, split="train"))[1]]


def training_memory(profile: Profile, *, distils: bool) -> list[str]:
    """A sentence about the memory of stages of QAT, and of distillation; none of a detector without shapes."""

    def sizes() -> dict[str, int]:
        needed = memory(profile)
        stages = {"inference": needed.inference, "a step of QAT": needed.qat_step}
        return stages | ({"a step of distillation": needed.distillation_step} if distils else {})

    return _by_shapes(sizes)


def inference_memory(profile: Profile) -> list[str]:
    """A sentence about the memory of an evaluation; none of a detector without shapes."""
    return _by_shapes(lambda: {"inference": inference_bytes(profile)})


def float_training_memory(profile: Profile) -> list[str]:
    """A sentence about the memory of a float training; none of a detector without shapes."""
    return _by_shapes(lambda: {"a step": float_step_bytes(profile)})


def _by_shapes(sizes: Callable[[], Mapping[str, int]]) -> list[str]:
    """The sentence about sizes; none where the detector they are counted on, built once, cannot run by shapes."""
    try:
        return [_gigabytes(sizes())]
    except Unable:
        return []


def _gigabytes(sizes: Mapping[str, int]) -> str:
    gigabytes = [f"{size / _GIGABYTE:.2f} GB for {what}" for what, size in sizes.items()]
    return f"memory of one process in float32, about: {', '.join(gigabytes)}"


def _absence(data: DataProfile) -> str:
    """What is said of a data set that is not there yet, where its size is published; empty where it is there."""
    return f" ({data.version} is not there yet; counted as published)" if is_absent(data) else ""


def _epochs(steps: int, *, schedule: Optimisation, samples: int) -> str:
    return f"{epochs_of(steps, schedule=schedule, samples=samples):.2g}" if samples else "unknown"
