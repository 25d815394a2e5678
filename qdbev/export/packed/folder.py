"""A packed model as a folder: ``model.safetensors``, and ``config.json`` that says how to read it and its digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from qdbev.export.packed.config import Unreadable, checked, grids_of, packed_config
from qdbev.export.packed.state import PackedState
from qdbev.quantization import Plan

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"


@dataclass(frozen=True)
class PackedFolder:
    """What a packed folder holds."""

    config: dict[str, Any]
    """``config.json``."""
    packed: PackedState
    """The tensors and their grids."""


def write_packed(
    folder: Path, packed: PackedState, *, plan: Plan, architecture: str, description: Mapping[str, Any]
) -> dict[str, Any]:
    """Write both files into a folder.

    Args:
        folder: It exists.
        packed: From ``packed_state``.
        plan: Bits and reasons, layer by layer.
        architecture: The kind of the detector.
        description: JSON of what builds the model again.

    Returns:
        The content of ``config.json``.
    """
    save_file(packed.tensors, folder / WEIGHTS, metadata={"format": "pt"})
    files = {WEIGHTS: _facts(folder / WEIGHTS)}
    config = packed_config(packed, plan=plan, architecture=architecture, description=description, files=files)
    (folder / CONFIG).write_text(json.dumps(config, indent=1, ensure_ascii=True) + "\n", encoding="ascii")
    return config


def read_packed(folder: Path) -> PackedFolder:
    """Read what ``write_packed`` wrote, every byte checked.

    Raises:
        Unreadable: A file is missing, cut or changed, or of a later version.
    """
    try:
        config = checked((folder / CONFIG).read_bytes())
        _compare(folder / WEIGHTS, stated=config["qdbev"]["files"][WEIGHTS])
        packed = PackedState(load_file(folder / WEIGHTS), grids_of(config, "weights"), grids_of(config, "inputs"))
    except Unreadable as error:
        raise Unreadable(f"{folder}: {error}") from None
    except OSError as error:
        raise Unreadable(f"{error.filename or folder}: {error.strerror}") from None
    except (SafetensorError, KeyError, TypeError, AttributeError) as error:
        raise Unreadable(f"{folder}: {WEIGHTS} or {CONFIG} is not as it must be ({error})") from None
    return PackedFolder(config, packed)


def _facts(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _compare(path: Path, *, stated: Mapping[str, Any]) -> None:
    """Hold a file against its size and digest."""
    actual = _facts(path)
    if actual["bytes"] != stated["bytes"]:
        raise Unreadable(f"{path.name} has {actual['bytes']} bytes, {stated['bytes']} were written")
    if actual != stated:
        raise Unreadable(f"{path.name} was changed after it was written")
