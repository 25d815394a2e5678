"""Profile section ``model`` -> the detector with fresh weights, its data sets, and the device that a profile means."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

import qdbev.detectors.detector as detectors
from pipelines.store import processes
from profiles import Profile, ProfileError
from profiles.detectors.bevdepth import BEVDepthProfile
from profiles.detectors.bevdet import BEVDetProfile
from profiles.detectors.bevformer import BEVFormerProfile
from profiles.detectors.configured import ConfiguredProfile
from profiles.detectors.detr3d import DETR3DProfile
from profiles.detectors.petr import PETRProfile
from profiles.sections.data import DataProfile
from profiles.sections.model import ModelProfile
from profiles.sections.rig import NUSCENES_RIG, RigProfile
from profiles.sections.schedule import Optimisation
from qdbev.data.configured.config import dataset_section, read_config
from qdbev.data.configured.dataset import ConfiguredDataset, class_order
from qdbev.data.nuscenes.records import Sample
from qdbev.data.queues.batches import Frames
from qdbev.data.queues.cropped import CroppedDataset
from qdbev.data.queues.lifting import LiftDataset
from qdbev.data.queues.temporal import TemporalDataset
from qdbev.detectors.bevdepth import build_bevdepth
from qdbev.detectors.bevdet import build_bevdet
from qdbev.detectors.bevformer import build_bevformer
from qdbev.detectors.configured import build_configured
from qdbev.detectors.detr3d import build_detr3d
from qdbev.detectors.petr import build_petr


class Unable(ValueError):
    """A detector lacks what a command needs of it."""


class Detector(nn.Module, detectors.Detector):
    """What is built here: a torch module that keeps the library's promises. It names a type; nothing is made of it."""


@dataclass(frozen=True)
class Augmentation:
    """What decides how the samples of a training are drawn and changed."""

    data: DataProfile
    schedule: Optimisation

    @property
    def of_images(self) -> dict[str, Any]:
        """The changes of images, as data sets of camera frames take them."""
        return {
            "photometric": self.schedule.photometric,
            "grid_mask_probability": self.schedule.grid_mask_probability,
        }


def _classes(_: ModelProfile, rig: RigProfile) -> tuple[str, ...]:
    return rig.class_names


def _cameras_alone(_: ModelProfile) -> dict[str, bool]:
    return {"use_camera": True, "use_lidar": False}


@dataclass(frozen=True)
class Kind:
    """What a kind of detector is built from and what it sees: functions of its section of the profile."""

    build: Callable[..., detectors.Detector]
    """The detector of a ``rig``, from its section; ``auxiliary`` adds the dense heads that only float training uses."""
    frames: Callable[..., Frames]
    """Samples under a ``root``: by a ``training``'s augmentation, or single frames in order where it is None."""
    classes: Callable[[Any, RigProfile], tuple[str, ...]] = _classes
    """The classes of a rig in the order of its scores."""
    sensors: Callable[[Any], dict[str, bool]] = _cameras_alone
    """Whether it uses cameras and LiDAR, as a submission states it: ``use_camera``, ``use_lidar``."""


def kind_of(model: ModelProfile) -> Kind:
    """The row of a profile's detector."""
    return _KINDS[model.detector]


def build_detector(model: ModelProfile, *, rig: RigProfile = NUSCENES_RIG, auxiliary: bool = False) -> Detector:
    """The detector of a model profile with fresh weights.

    Args:
        model: Its numbers, or its config.
        rig: Its cameras and classes.
        auxiliary: With the dense heads that only float training uses, where its kind has any.

    Raises:
        ValueError: What the section says cannot be built: its parts contradict each other, or a config does not have
            the stated parts.
    """
    try:
        return cast(Detector, kind_of(model).build(model, rig=rig, auxiliary=auxiliary))
    except (ValueError, MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:  # what builds it is not ours: assertions, missing keys, wrong types, anything
        reason = str(error) or "it asserts something that does not hold"
        raise ValueError(
            f"the detector of section model ({model.name}) cannot be built: {type(error).__name__}: {reason}"
        ) from error


def refuse_unable(detector: Detector, *, ability: detectors.Ability) -> None:
    """Refuse a detector for what needs an ability.

    Raises:
        Unable: It lacks it, in the detector's own words.
    """
    if reason := detector.cannot(ability):
        raise Unable(reason)


def device_of(profile: Profile) -> torch.device:
    """The device a profile means.

    Raises:
        ProfileError: It is not here.
    """
    if profile.device == "auto":
        return torch.device(processes.device("cuda" if torch.cuda.is_available() else "cpu"))
    device = torch.device(processes.device(profile.device))
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ProfileError(
            f"device is {profile.device}, but torch sees {_gpus_here()}; use --device cpu or --device auto "
            "(`qdbev doctor` says what this machine has)"
        )
    return device


def inputs_on(batch: Mapping[str, Any], *, device: torch.device) -> dict[str, Any]:
    """A batch's inputs, tensors on the device; lists stay, which an mmdet3d detector's preprocessor brings there."""
    inputs = batch["inputs"]
    return {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}


def _gpus_here() -> str:
    count = torch.cuda.device_count()
    if count < 2:
        return "the one CUDA device cuda:0" if count else "no CUDA device"
    return f"{count} CUDA devices, cuda:0 to cuda:{count - 1}"


def _bevformer(model: BEVFormerProfile, *, rig: RigProfile, auxiliary: bool) -> detectors.Detector:
    return build_bevformer(**model.arguments(), **_counts(rig), auxiliary=auxiliary)


def _detr3d(model: DETR3DProfile, *, rig: RigProfile, auxiliary: bool) -> detectors.Detector:
    return build_detr3d(**model.arguments(), **_counts(rig), auxiliary=auxiliary)


def _counts(rig: RigProfile) -> dict[str, Any]:
    return {"cameras": len(rig.cameras), "classes": len(rig.classes)}


def _petr(model: PETRProfile, *, rig: RigProfile, auxiliary: bool) -> detectors.Detector:
    return build_petr(**model.arguments(), classes=len(rig.classes), auxiliary=auxiliary)


def _bevdet(model: BEVDetProfile, *, rig: RigProfile, auxiliary: bool) -> detectors.Detector:
    return build_bevdet(**model.arguments(), tasks=rig.tasks, auxiliary=auxiliary)


def _bevdepth(model: BEVDepthProfile, *, rig: RigProfile, auxiliary: bool) -> detectors.Detector:
    return build_bevdepth(**model.arguments(), tasks=rig.tasks, auxiliary=auxiliary)


def _queues(samples: Sequence[Sample], *, root: Path, model: BEVFormerProfile, training: Augmentation | None) -> Frames:
    past = {"queue_length": training.data.queue_length, "drop_one": training.data.drop_one_frame} if training else {}
    return _whole(samples, root=root, model=model, training=training, range_m=model.bev.range_m, **past)


def _frames(samples: Sequence[Sample], *, root: Path, model: DETR3DProfile, training: Augmentation | None) -> Frames:
    return _whole(samples, root=root, model=model, training=training, range_m=model.decoder.range_m)


def _whole(
    samples: Sequence[Sample],
    *,
    root: Path,
    model: BEVFormerProfile | DETR3DProfile,
    training: Augmentation | None,
    range_m: Sequence[float],
    **past: Any,
) -> Frames:
    """Whole images of all cameras."""
    changes = training.of_images if training else {}
    of_images = {**changes, **dict(model.image)}
    return TemporalDataset(samples, root=root, train=bool(training), point_cloud_range=range_m, **past, **of_images)


def _cropped(samples: Sequence[Sample], *, root: Path, model: PETRProfile, training: Augmentation | None) -> Frames:
    changes = {**dict(model.augmentation), **training.of_images} if training else {}
    of_images = {**changes, **dict(model.image)}
    return CroppedDataset(
        samples, root=root, train=bool(training), point_cloud_range=model.decoder.range_m, **of_images
    )


def _lifted(
    samples: Sequence[Sample],
    *,
    root: Path,
    model: BEVDetProfile | BEVDepthProfile,
    training: Augmentation | None,
) -> Frames:
    """Without augmentation, whatever the schedule says; with depths of the LiDAR where these are learned from."""
    past: dict[str, Any] = {}
    if training:
        past["frames_back"] = model.frames_back if training.data.queue_length > 1 else 0
        past["draw_past"] = training.data.drop_one_frame
        depths = isinstance(model, BEVDepthProfile) and model.depth.weight > 0
        past["depth_stride"] = _DEPTH_STRIDE if depths else None
    return LiftDataset(
        samples, root=root, train=bool(training), point_cloud_range=model.lift.range_m, **past, **dict(model.image)
    )


def _configured(model: ConfiguredProfile, *, rig: RigProfile, auxiliary: bool) -> detectors.Detector:
    section = model.mmdet3d
    if rig.class_names != NUSCENES_RIG.class_names:
        raise ValueError(
            f"a detector of an mmdet3d config finds nuScenes' classes, and data.rig is {rig.name} with "
            f"{len(rig.classes)} of its own; take a native detector"
        )
    return build_configured(
        _config(model)["model"],
        parts=dict(section.parts),
        taps=dict(section.taps),
        output_layers=section.output_layers,
        class_order=_class_order(model),
    )


def _config(model: ConfiguredProfile) -> dict[str, Any]:
    return read_config(str(model.mmdet3d.config), options=model.mmdet3d.options)


def _class_order(model: ConfiguredProfile) -> tuple[int, ...]:
    return tuple(class_order(dataset_section(_config(model), name="test")))


def _frames_of_config(
    samples: Sequence[Sample], *, root: Path, model: ConfiguredProfile, training: Augmentation | None
) -> ConfiguredDataset:
    """The config has an augmentation of its own, on single frames."""
    section = dataset_section(_config(model), name="train" if training else "test")
    return ConfiguredDataset(samples, root=root, section=section, train=bool(training))


_DEPTH_STRIDE = 16  # of BEVDepth's image features
_KINDS = {
    "bevdepth": Kind(_bevdepth, _lifted),
    "bevdet": Kind(_bevdet, _lifted),
    "bevformer": Kind(_bevformer, _queues),
    "detr3d": Kind(_detr3d, _frames),
    "petr": Kind(_petr, _cropped),
    "mmdet3d": Kind(
        _configured,
        _frames_of_config,
        classes=lambda model, rig: tuple(rig.class_names[index] for index in _class_order(model)),
        sensors=lambda model: _frames_of_config([], root=Path(), model=model, training=None).modality,
    ),
}
"""A row for each kind of detector, under the name that profiles give it."""
