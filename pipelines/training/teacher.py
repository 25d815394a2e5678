"""The teacher of distillation: the frozen float detector, live in every step or kept on disk, one file per sample.

What it gives for a sample can be kept where every visit shows the same images: no random augmentation, and the nearest
earlier frames in the queue. It then sees samples one by one, so that a file does not depend on the batch it came up in
and a run ends with the same bits whether the cache was empty or full.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.metadata import version
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from pipelines.assembly.detector import Detector
from pipelines.assembly.samples import Split
from pipelines.assembly.scene import countable
from pipelines.store import processes
from pipelines.store.integrity import UnusableInput
from pipelines.store.locations import cache_folder
from pipelines.training.objectives import CODE, IMAGE, LOGITS, OUTPUTS, taught
from profiles import Profile, fingerprint
from profiles.wording import counted
from qdbev.detectors.features import Features
from qdbev.distillation.feature_cache import FeatureCache

FORMAT = 1  # raised where code changes what a kept file means
_FLOAT_BYTES = 4
_GIGABYTE = 10**9
_BATCH_AXIS = {LOGITS: 1, CODE: 1}  # elsewhere the first


class Teacher(Protocol):
    """What the student is compared with."""

    def __call__(self, inputs: Mapping[str, Any], samples: Sequence[Any]) -> Features:
        """Give the features of a batch, without gradients."""
        ...


class LiveTeacher:
    """The float detector, run on every batch; its decoder only where an objective wants its outputs."""

    def __init__(self, detector: Detector, *, needs: frozenset[str], device: torch.device) -> None:
        self._detector = detector
        self._device = device
        self._mode = "features_with_outputs" if needs & OUTPUTS else "features"

    def __call__(self, inputs: Mapping[str, Any], samples: Sequence[Any]) -> Features:
        """Give the features of a batch on the device."""
        with torch.no_grad():
            return cast(Features, self._frozen(dict(inputs), list(samples), mode=self._mode))

    @cached_property
    def _frozen(self) -> Detector:
        """The detector ready to run; one that is never asked takes no memory of the device."""
        return self._detector.requires_grad_(False).eval().to(self._device)


class KeptTeacher:
    """A teacher that is asked once per sample: what it gave is read from disk afterwards."""

    def __init__(self, live: Teacher, *, cache: FeatureCache, needs: frozenset[str], device: torch.device) -> None:
        self._live = live
        self._cache = cache
        self._needs = needs
        self._device = device

    def __call__(self, inputs: Mapping[str, Any], samples: Sequence[Any]) -> Features:
        """Give the needed features of a batch on the device.

        Raises:
            UnusableInput: The cache cannot be written.
        """
        alone = [self._of_one(inputs, samples, place) for place in range(len(samples))]
        joined = {
            name: torch.cat([features[name] for features in alone], dim=_BATCH_AXIS.get(name, 0)).to(self._device)
            for name in alone[0]
        }
        return _as_features(joined)

    def _of_one(self, inputs: Mapping[str, Any], samples: Sequence[Any], place: int) -> dict[str, Tensor]:
        token = samples[place].metainfo["frames"][-1]["token"]
        key = hashlib.sha256(token.encode()).hexdigest()[:32]
        tensors = self._cache.load(key)
        if tensors is None:
            features = self._live({"img": inputs["img"][place : place + 1]}, samples[place : place + 1])
            tensors = {name: tensor.cpu() for name, tensor in _as_tensors(features, needs=self._needs).items()}
            self._keep(key, tensors)
        return tensors

    def _keep(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        try:
            self._cache.save(key, tensors)
        except OSError as error:
            raise UnusableInput(
                f"teacher features cannot be written to {self._cache.folder} ({error.strerror}); name another folder "
                "with data.cache, or set distillation.cache_teacher=never"
            ) from error


def teacher_of(
    profile: Profile, *, detector: Detector, digest: str, split: Split, device: torch.device
) -> tuple[Teacher, str]:
    """The teacher as a profile wants it, and a sentence where one is due.

    Args:
        profile: Its model, data and distillation sections.
        detector: The float detector.
        digest: Of the artifact its weights are from.
        split: The training samples.
        device: Where student and teacher are.

    Raises:
        ValueError: See ``keeps``.
    """
    needs = taught(profile)
    live = LiveTeacher(detector, needs=needs, device=device)
    keep, sentence = keeps(profile, samples=len(split.samples))
    if not keep:
        return live, sentence
    key = fingerprint(
        {
            "format": FORMAT,
            "teacher": digest,
            "model": profile.model.content() | {"weights": None},
            "data": split.digest,
            "queue": profile.data.queue_length,
            "needs": sorted(needs),
            "precision": profile.distillation.schedule.precision,
            "device": device.type,
            "versions": {name: version(name) for name in ("torch", "mmcv", "qdbev")},
        }
    )
    folder = cache_folder(profile.data) / "teacher" / key[:32]
    return KeptTeacher(live, cache=FeatureCache(folder), needs=needs, device=device), sentence


def keeps(profile: Profile, *, samples: int) -> tuple[bool, str]:
    """Whether what the teacher gives is kept on disk, and a sentence about it (empty where none is wanted).

    Args:
        profile: Its model, data and distillation sections.
        samples: Training samples there are.

    Raises:
        ValueError: It must be kept (``cache_teacher: always``) and cannot be.
    """
    section = profile.distillation
    if section.cache_teacher == "never":
        return False, ""
    refuse_unkeepable(profile)
    if reason := _changing(profile):
        return False, f"the teacher runs in every step, because {reason}"
    schedule = section.schedule
    visits = schedule.steps * schedule.accumulation * schedule.batch_size * processes.count()
    count = min(samples, visits)
    size_gb = count * sample_bytes(profile) / _GIGABYTE
    if size_gb <= section.cache_limit_gb:
        where = cache_folder(profile.data) / "teacher"
        features = f"teacher features of {counted(count, 'sample')}"
        return True, f"{features} are kept in {where}, about {size_gb:.2g} GB in float32"
    reason = (
        f"features of {counted(count, 'sample')} would take about {size_gb:,.4g} GB and distillation.cache_limit_gb is "
        f"{section.cache_limit_gb:g}"
    )
    if section.cache_teacher == "always":
        raise ValueError(f"distillation.cache_teacher is always, but {reason}; raise the limit or set it to auto")
    return False, f"the teacher runs in every step, because {reason}"


def refuse_unkeepable(profile: Profile) -> None:
    """Refuse a profile whose teacher must be kept while what it sees changes from visit to visit.

    Raises:
        ValueError: Naming the field that makes it change.
    """
    if profile.distillation.cache_teacher == "always" and (reason := _changing(profile)):
        raise ValueError(f"distillation.cache_teacher is always, but {reason}; set it to auto to run the teacher then")


def sample_bytes(profile: Profile) -> int:
    """Bytes of what is kept of one sample, in float32, by shapes alone; with half precision it is less."""
    detector, scene = countable(profile)
    sizes = detector.feature_sizes(scene)
    return _FLOAT_BYTES * sum(sizes[name] for name in taught(profile))


def _changing(profile: Profile) -> str:
    """Why two visits of a sample differ; empty where they do not."""
    schedule, data = profile.distillation.schedule, profile.data
    if profile.model.unsteady:
        return profile.model.unsteady
    reasons = {
        "distillation.schedule.photometric is true": schedule.photometric,
        "distillation.schedule.grid_mask_probability is above 0": schedule.grid_mask_probability > 0,
        "data.drop_one_frame is true": data.drop_one_frame and data.queue_length > 1,
    }
    return " and ".join(reason for reason, holds in reasons.items() if holds)


def _as_tensors(features: Features, *, needs: frozenset[str]) -> dict[str, Tensor]:
    """The needed fields that are there, image levels by number."""
    levels = features.image or []
    tensors = {f"{IMAGE}.{number}": level for number, level in enumerate(levels)} if IMAGE in needs else {}
    others = {name: getattr(features, name) for name in sorted(needs - {IMAGE})}
    return tensors | {name: tensor for name, tensor in others.items() if tensor is not None}


def _as_features(tensors: Mapping[str, Tensor]) -> Features:
    levels = [name for name in tensors if name.startswith(f"{IMAGE}.")]
    image = [tensors[f"{IMAGE}.{number}"] for number in range(len(levels))] or None
    return Features(image=image, **{name: tensor for name, tensor in tensors.items() if name not in levels})  # type: ignore[arg-type]
