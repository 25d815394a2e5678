"""Profile section ``model`` -> the detector with fresh weights, and the device that a profile means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

import qdbev.detectors.detector as detectors
from pipelines.store import processes
from profiles import Profile, ProfileError
from profiles.sections.model import MMDET3D, ModelProfile
from qdbev.data.configured.config import class_order, dataset_section, read_config
from qdbev.detectors.bevformer import build_bevformer
from qdbev.detectors.configured import build_configured


class Detector(nn.Module, detectors.Detector):
    """What is built here: a torch module that keeps the library's promises. It names a type; nothing is made of it."""


def build_detector(model: ModelProfile, *, auxiliary: bool = False) -> Detector:
    """The detector of a model profile with fresh weights.

    Args:
        model: Its numbers, or its config.
        auxiliary: With the dense heads that only float training uses, which BEVFormer alone has.

    Raises:
        ValueError: A config of mmdet3d that cannot be built, or does not have the stated parts.
    """
    if model.detector == MMDET3D:
        section = model.mmdet3d
        config = read_config(str(section.config), options=section.options)
        configured: detectors.Detector = build_configured(
            config["model"],
            parts=dict(section.parts),
            taps=dict(section.taps),
            output_layers=section.output_layers,
            class_order=class_order(dataset_section(config, name="test")),
        )
        return cast(Detector, configured)
    bevformer: detectors.Detector = build_bevformer(**model.arguments(), auxiliary=auxiliary)
    return cast(Detector, bevformer)


def refuse_unable(detector: Detector, *, ability: detectors.Ability) -> None:
    """Refuse a detector for what needs an ability.

    Raises:
        ValueError: It lacks it, in the detector's own words.
    """
    if reason := detector.cannot(ability):
        raise ValueError(reason)


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
    return {name: one.to(device) if isinstance(one, torch.Tensor) else one for name, one in inputs.items()}


def _gpus_here() -> str:
    count = torch.cuda.device_count()
    if count < 2:
        return "the one CUDA device cuda:0" if count else "no CUDA device"
    return f"{count} CUDA devices, cuda:0 to cuda:{count - 1}"
