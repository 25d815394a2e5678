"""Profile sections -> the detector with its float weights; the one place where weights are found, read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipelines.chain import WEIGHTS
from pipelines.integrity import UnusableInput, reading_data
from pipelines.locations import FLOAT, ZOO, cache_folder, shipped_weights
from pipelines.store import Artifact, MissingArtifact, Store
from profiles import Profile, ProfileError, fingerprint
from profiles.model import ModelProfile
from qdbev.detectors.bevformer import BEVFormer, build_bevformer

OFFICIAL_FILES = {
    "tiny": "bevformer_tiny_epoch_24.pth",
    "small": "bevformer_small_epoch_24.pth",
    "base": "bevformer_r101_dcn_24ep.pth",
}
_OFFICIAL_PAGE = "the model table of https://github.com/fundamentalvision/BEVFormer"
_NAMED = 5  # tensors of each kind in a complaint
_PACKAGES = ("torch", "mmcv", "mmdet", "mmdet3d", "mmengine", "nuscenes-devkit", "numpy", "qdbev")


def build_detector(model: ModelProfile, *, auxiliary: bool = False) -> BEVFormer:
    """The detector of a model profile with fresh weights.

    Args:
        model: Its numbers.
        auxiliary: With the dense heads that only float training uses.
    """
    return build_bevformer(**model.arguments(), auxiliary=auxiliary)


def float_artifact(profile: Profile, *, store: Store) -> Artifact:
    """The artifact that holds the profile's float weights.

    Args:
        profile: ``model.weights`` says where they are: ``zoo``, ``random``, the path of a ``.pth`` or ``.safetensors``
            file (sealed into the store first), or any artifact the store opens by name.
        store: Where imported and random weights are sealed.

    Raises:
        MissingArtifact: There are none; the sentence says which file to put where.
        UnusableInput: The file is damaged, or holds no plain tensors by name.
        ValueError: The file holds other parameters than the model.
    """
    model = profile.model
    source = model.weights
    if source is None:
        source = str(cache_folder(profile.data) / "weights" / OFFICIAL_FILES.get(model.name, f"{model.name}.pth"))
        if not Path(source).is_file():
            raise MissingArtifact(_advice(model.name, path=source))
    if source == "zoo":
        return _shipped(model)
    if source == "random" or Path(source).suffix in (".pth", ".safetensors"):
        return _imported(profile, store=store, source=source)
    return store.adopt(store.open(source))


def float_detector(profile: Profile, *, store: Store) -> tuple[BEVFormer, Artifact]:
    """The float detector in eval mode, and the artifact its weights are from; the loss weighs as the profile says."""
    artifact = float_artifact(profile, store=store)
    detector = build_detector(profile.model)
    load_strictly(detector, state=load_file(artifact.file(WEIGHTS)), origin=artifact.path.name)
    with torch.no_grad():  # a setting of the loss, though the head keeps it among its parameters
        detector.pts_bbox_head.code_weights.copy_(torch.tensor(profile.model.head.code_weights))
    return detector.eval(), artifact


def load_strictly(model: nn.Module, *, state: Mapping[str, Tensor], origin: str) -> None:
    """Load a state dict in which nothing is missing, extra or of another shape.

    Raises:
        ValueError: Counting the tensors of each kind and naming a few, or saying what else torch refused.
    """
    own = model.state_dict()
    problems = {
        "missing": sorted(own.keys() - state.keys()),
        "unknown": sorted(state.keys() - own.keys()),
        "of another shape": sorted(name for name in own.keys() & state.keys() if own[name].shape != state[name].shape),
    }
    found = [f"{len(names)} {kind} ({_a_few(names)})" for kind, names in problems.items() if names]
    if found:
        raise ValueError(f"{origin} does not fit this model: tensors {'; '.join(found)}; check --model")
    try:
        model.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        raise ValueError(f"{origin} does not fit this model: {_in_one_line(error)}") from error


def package_versions() -> dict[str, str]:
    """Versions of what decides numbers."""
    return {name: version(name) for name in _PACKAGES}


def device_of(profile: Profile) -> torch.device:
    """The device a profile means.

    Raises:
        ProfileError: It is not here.
    """
    if profile.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(profile.device)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ProfileError(
            f"device is {profile.device}, but torch sees {_gpus_here()}; use --device cpu or --device auto "
            "(`qdbev doctor` says what this machine has)"
        )
    return device


def _gpus_here() -> str:
    count = torch.cuda.device_count()
    if count < 2:
        return "the one CUDA device cuda:0" if count else "no CUDA device"
    return f"{count} CUDA devices, cuda:0 to cuda:{count - 1}"


def _a_few(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def _in_one_line(error: RuntimeError) -> str:
    """What ``load_state_dict`` found wrong, without its title: the first three findings and how many follow."""
    found = [line.strip() for line in str(error).splitlines() if line.strip()]
    found = found[1:] or found
    return "; ".join(found[:3]) + (f"; and {len(found) - 3} more" if len(found) > 3 else "")


def _shipped(model: ModelProfile) -> Artifact:
    artifact = shipped_weights(model.name)
    if artifact is None:
        names = ", ".join(one.manifest.name for one in Store.zoo(ZOO).list()) or "none"
        raise MissingArtifact(f"no float weights of {model.name} are shipped (shipped: {names}); set model.weights")
    return artifact


def _imported(profile: Profile, *, store: Store, source: str) -> Artifact:
    content: dict[str, Any] = {"kind": FLOAT, "model": profile.model.content() | {"weights": None}}
    if source == "random":
        content["random"] = profile.seed
    else:
        with reading_data():
            content["file"] = fingerprint(Path(source).read_bytes().hex())
    key = fingerprint(content)
    if found := store.find(FLOAT, key=key):
        return found
    torch.manual_seed(profile.seed)
    detector = build_detector(profile.model)
    if source != "random":
        load_strictly(detector, state=_foreign_state(Path(source)), origin=source)
    state = {name: value.contiguous() for name, value in detector.state_dict().items()}
    note = "weights are random: scores mean nothing" if source == "random" else f"imported from {Path(source).name}"
    return store.seal(
        FLOAT,
        profile=profile,
        key=key,
        write=lambda folder: save_file(state, folder / WEIGHTS),
        packages=package_versions(),
        notes=(note,),
    )


def _foreign_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, read as data only (``weights_only``), never as code.

    Raises:
        UnusableInput: It is damaged, or something else than tensors by name.
    """
    try:
        content = load_file(path) if path.suffix == ".safetensors" else _unpickled(path)
    except Exception as error:  # foreign bytes make the readers fail in any way
        raise UnusableInput(
            f"{path} cannot be read as plain tensors: it is damaged, or holds objects that could run code and are "
            "never loaded; copy it again, or save model.state_dict() alone"
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict):
        raise UnusableInput(
            f"{path} holds a {type(state).__name__}, not tensors by name; save model.state_dict() in it"
        )
    return {str(name): value for name, value in state.items() if isinstance(value, Tensor)}


def _unpickled(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


def _advice(name: str, *, path: str) -> str:
    return (
        f"the float weights of {name} are not here: {Path(path).name} is missing. Its authors publish it in "
        f"{_OFFICIAL_PAGE}; put it at {path}, or name your file with --set model.weights=FILE. "
        "--model nano runs without any download"
    )
