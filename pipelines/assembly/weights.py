"""Profile sections -> the detector with its float weights; the one place where weights are found, read and checked."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn

from pipelines.assembly.checkpoint import Checkpoint, read_checkpoint
from pipelines.assembly.detector import Detector, build_detector, kind_of
from pipelines.assembly.job import Job
from pipelines.assembly.strict_loading import Misfit, load_strictly
from pipelines.assembly.tensors import read_tensors, write_tensors
from pipelines.lineage.keys import imported_key, random_key
from pipelines.lineage.kinds import FLOAT, WEIGHTS
from pipelines.lineage.models import refuse_other_rig
from pipelines.lineage.stated import imported_weights, shipped_weights
from pipelines.store.artifacts import Artifact, MissingArtifact, Store
from pipelines.store.integrity import UnusableInput, reading_data
from pipelines.store.locations import ZOO
from pipelines.store.making import Content, made
from profiles import Profile, builtin_models, load
from profiles.home import expanded, is_file, what_lies
from profiles.sections.model import ModelProfile
from qdbev.detectors.boxes.convention import in_official_code

_BEVFORMER = "the model table of https://github.com/fundamentalvision/BEVFormer"
OFFICIAL_FILES = {
    "tiny": ("bevformer_tiny_epoch_24.pth", _BEVFORMER),
    "small": ("bevformer_small_epoch_24.pth", _BEVFORMER),
    "base": ("bevformer_r101_dcn_24ep.pth", _BEVFORMER),
    "detr3d": ("detr3d_resnet101.pth", "the table of https://github.com/WangYueFt/detr3d (DETR3D, ResNet101 w/ DCN)"),
    "petr": ("PETR-r50-p4-1408x512", "the table of https://github.com/megvii-research/PETR"),
}
"""Name of a built-in model -> its authors' file, and the page that offers it."""
_ROWS = {"cameras": r"\.cams_embeds$", "classes": r"(cls_branches\.0\.6|heatmap\.1)\.bias$"}
"""Tensors with a row for each camera or class of a rig, by the end of their names."""
_PACKAGES = ("torch", "mmcv", "mmdet", "mmdet3d", "mmengine", "nuscenes-devkit", "numpy", "qdbev")


def float_artifact(job: Job) -> Artifact:
    """The artifact that holds the float weights of a job's profile.

    Args:
        job: ``model.weights`` says where they are: ``zoo``, ``random``, the path of a ``.pth`` or ``.safetensors``
            file (sealed into the store first), any artifact the store opens by name, or null (imported last). What is
            sealed is taken as it is, also where the job forces.

    Raises:
        MissingArtifact: There are none; the sentence says which file to import.
        UnusableInput: The file is damaged, or holds no plain tensors by name.
        Misfit: The file holds other parameters than the model.
    """
    model, store = job.stated.model, job.store
    source = model.weights
    if source is None:
        if imported_last := imported_weights(model.name, store=store):
            return imported_last
        raise missing_weights(model.name, problem=f"the float weights of {model.name} are not in {store.root}")
    if source == "zoo":
        return _shipped(model)
    if source == "random":
        return _random(replace(job, force=False))
    path = expanded(source)
    _refuse_other_than_file(source)
    if is_file(path) or path.suffix in (".pth", ".safetensors"):
        return imported(replace(job, force=False), path=path)
    return store.adopt(store.open(source))


def refuse_missing_weights(job: Job) -> None:
    """Refuse a profile whose float weights are not there, before anything is made; raises what ``float_artifact`` does.

    A file is looked for and not read.
    """
    model, store = job.stated.model, job.store
    source = model.weights
    if source is None:
        if imported_weights(model.name, store=store) is None:
            raise missing_weights(model.name, problem=f"the float weights of {model.name} are not in {store.root}")
    elif source == "zoo":
        _shipped(model)
    elif source != "random" and not is_file(path := expanded(source)):
        _refuse_other_than_file(source)
        if path.suffix in (".pth", ".safetensors"):
            raise UnusableInput(f"model.weights is {source}, and there is no such file")
        store.open(source)


def _refuse_other_than_file(source: str) -> None:
    """Refuse a pipe, a device or a link that leads nowhere; a folder may be an artifact."""
    if source and (what := what_lies(path := expanded(source))) and not path.is_dir():
        raise UnusableInput(f"model.weights is {source}, which {what}; name a file of weights or an artifact")


def imported(job: Job, *, path: Path) -> Artifact:
    """The float artifact of a foreign file, found by the file's content or sealed now.

    Args:
        job: Its model is what the file must hold, to the last tensor.
        path: What ``torch.save`` or safetensors wrote, by any name.

    Raises:
        UnusableInput: The file is missing, damaged, or holds no plain tensors by name.
        Misfit: It holds other tensors than the model.
    """
    if os.path.lexists(path) and not is_file(path):
        raise UnusableInput(f"{path} is no file that can be read; name the file of a checkpoint")
    with reading_data(), path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    profile = job.profile
    unnamed = profile.model.model_copy(update={"weights": None})  # the file's content counts, not where it lay

    def make() -> Content:
        detector, checkpoint = fitted(profile, path=path)
        return Content(
            _writing(detector),
            data={"imported_file": path.name, "imported_sha256": digest, "matched": matched(detector)},
            packages=package_versions(),
            notes=(f"imported from {path.name}", *remarks(checkpoint, profile=profile)),
        )

    asking = job.of(profile.model_copy(update={"model": unnamed}))
    return made(asking, FLOAT, key=imported_key(profile, sha256=digest), make=make).artifact


def fitted(profile: Profile, *, path: Path) -> tuple[Detector, Checkpoint]:
    """The detector with the weights of a foreign file, and what was read; raises what ``imported`` raises."""
    detector = build_detector(profile.model, rig=profile.data.rig)
    checkpoint = _in_official_code(read_checkpoint(path, wanted=detector.state_dict().keys()))
    _load(detector, state=checkpoint.state, origin=str(path), asked=profile.model.name)
    return detector, checkpoint


def _in_official_code(checkpoint: Checkpoint) -> Checkpoint:
    state, remarks = in_official_code(checkpoint.state, marks=checkpoint.marks)
    return replace(checkpoint, state=state, changes=(*checkpoint.changes, *remarks))


def _load(detector: nn.Module, *, state: Mapping[str, torch.Tensor], origin: str, asked: str) -> None:
    """Load strictly; what does not fit the model asked for is told as another built-in model's where it is like it."""
    try:
        load_strictly(detector, state=state, origin=origin)
    except Misfit as error:
        name = built_in_like(state)
        difference = _other_rig(state, own=detector.state_dict())
        if name in (None, asked) and not difference:
            raise
        of_rig = f"it was trained for {difference}: set data.rig to the rig that it was trained on"
        advice = of_rig if difference else f"its sizes are those of {name}: --model {name}"
        raise Misfit(error.problem, details=error.details["tensors"], advice=advice) from error


def _other_rig(state: Mapping[str, torch.Tensor], *, own: Mapping[str, torch.Tensor]) -> str:
    """How many cameras or classes a state dict is for, where it is not as many as the model's; else nothing."""
    pairs = ((noun, _rows(state, ends=ends), _rows(own, ends=ends)) for noun, ends in _ROWS.items())
    return " and ".join(
        f"{there} {noun}, not {here}" for noun, there, here in pairs if there and here and there != here
    )


def _rows(state: Mapping[str, torch.Tensor], *, ends: str) -> int:
    """Rows of all tensors of a first branch whose names match."""
    return sum(len(tensor) for name, tensor in state.items() if re.search(ends, name))


def built_in_like(state: Mapping[str, torch.Tensor]) -> str | None:
    """Name of the built-in model whose numbers a state dict has."""
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    return next((name for name in builtin_models() if load("float", model=name).model.fits(shapes)), None)


def matched(detector: nn.Module) -> dict[str, dict[str, int]]:
    """How many tensors, and numbers in them, each of a detector's modules has in its state dict."""
    counts: dict[str, dict[str, int]] = {}
    for name, tensor in detector.state_dict().items():
        count = counts.setdefault(name.partition(".")[0], {"tensors": 0, "elements": 0})
        count["tensors"] += 1
        count["elements"] += tensor.numel()
    return counts


def remarks(checkpoint: Checkpoint, *, profile: Profile) -> tuple[str, ...]:
    """What was changed on reading, and a warning where the file states its classes in another order than the model."""
    if checkpoint.classes in ((), kind_of(profile.model).classes(profile.model, profile.data.rig)):
        return checkpoint.changes
    stated = ", ".join(checkpoint.classes)
    return (
        *checkpoint.changes,
        f"scores will be wrong: the file states the classes {stated}; the model's order is other",
    )


def float_detector(job: Job) -> tuple[Detector, Artifact]:
    """The float detector in eval mode, and the artifact its weights are from; the loss weighs as the profile says."""
    profile, artifact = job.stated, float_artifact(job)
    refuse_other_rig(artifact, profile=profile)
    detector = build_detector(profile.model, rig=profile.data.rig)
    _load(detector, state=read_tensors(artifact.file(WEIGHTS)), origin=artifact.path.name, asked=profile.model.name)
    detector.set_code_weights(profile.model.code_weights)
    return detector.eval(), artifact


def missing_weights(model: str, *, problem: str) -> MissingArtifact:
    """The error for float weights that are not there: what is wrong, and which file from where to import."""
    file, page = OFFICIAL_FILES.get(model, ("", ""))
    first = f"download {file} from {page}, then " if file else ""
    return MissingArtifact(
        f"{problem}; {first}run `qdbev import-weights FILE --model {model}`, or name the file with "
        "--set model.weights=FILE (--model nano runs without any download)"
    )


def package_versions() -> dict[str, str]:
    """Versions of what decides numbers."""
    return {name: version(name) for name in _PACKAGES}


def _shipped(model: ModelProfile) -> Artifact:
    artifact = shipped_weights(model.name)
    if artifact is None:
        names = ", ".join(shipped.manifest.name for shipped in Store.zoo(ZOO).list()) or "none"
        raise MissingArtifact(f"no float weights of {model.name} are shipped (shipped: {names}); set model.weights")
    return artifact


def _random(job: Job) -> Artifact:
    def make() -> Content:
        torch.manual_seed(job.profile.seed)
        return Content(
            _writing(build_detector(job.profile.model, rig=job.profile.data.rig)),
            packages=package_versions(),
            notes=("weights are random: scores mean nothing",),
        )

    return made(job, FLOAT, key=random_key(job.profile), make=make).artifact


def _writing(detector: nn.Module) -> Callable[[Path], None]:
    return lambda folder: write_tensors(folder / WEIGHTS, detector.state_dict())
