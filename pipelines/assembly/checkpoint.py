"""A checkpoint of somebody else's program -> its tensors by name, read as data: nothing that lies in it is ever called.

What mmcv, mmengine and plain ``torch.save`` write around a state dict, and what is taken of it:

- ``{"meta", "state_dict", "optimizer"}`` (mmcv, the official BEVFormer files): the ``state_dict``;
- ``message_hub``, ``param_schedulers``, ``ema_state_dict`` (mmengine's Runner, so mmdet3d 1.x): left out. Its
  ``EMAHook`` swaps the averaged weights into the ``state_dict`` before it is saved;
- names that all begin with ``module.`` (saved from a parallel wrapper): without it;
- ``ema_*`` (mmcv's ``EMAHook`` keeps a second copy beside the weights): left out.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from pipelines.store.integrity import UnusableInput

_WRAPPER = "module."
_SECOND_COPY = "ema_"
_LOGS = (
    "builtins.getattr",
    "mmengine.logging.history_buffer.HistoryBuffer",
    *("numpy.ndarray", "numpy.dtype"),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
)
"""What mmengine's training log is pickled with; torch refuses the file for it, though no weight is among it."""


class _LeftOut:
    """Stands where an object of a training log would be, and keeps nothing of it."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds."""

    state: dict[str, Tensor]
    """Tensors by the detector's parameter names, floating ones as float32, on the CPU."""
    changes: tuple[str, ...]
    """What was done to names and numbers on the way, one sentence each."""
    classes: tuple[str, ...]
    """Class names in the order of the class scores, where the file states them."""


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a ``.pth`` file (any file of ``torch.save``) or a ``.safetensors`` file.

    Raises:
        UnusableInput: It is damaged, holds objects that could run code, something else than tensors by name, or numbers
            that are not finite.
    """
    content = _content(path)
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict):
        raise UnusableInput(
            f"{path} holds a {type(state).__name__}, not tensors by name; save model.state_dict() in it"
        )
    tensors, renamed = _with_own_names({str(name): one for name, one in state.items() if isinstance(one, Tensor)})
    tensors, converted = _in_float32(tensors)
    wrong = [name for name, one in tensors.items() if one.is_floating_point() and not one.isfinite().all()]
    if wrong:
        raise UnusableInput(
            f"{path} holds numbers that are not finite in {len(wrong)} tensors (first {wrong[0]}): its training "
            "diverged, or half precision overflowed; save it again from sound weights in float32"
        )
    return Checkpoint(tensors, (*renamed, *converted), _classes(content))


def _content(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([(_LeftOut, name) for name in _LOGS]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # foreign bytes make the readers fail in any way
        named = _objects_in(path) if isinstance(error, pickle.UnpicklingError) else ()
        reason = f"it holds {', '.join(named)}" if named else "it is damaged, or holds objects"
        raise UnusableInput(
            f"{path} cannot be read as plain tensors: {reason} that could run code and are never loaded; copy it "
            "again, or save model.state_dict() alone"
        ) from error


def _objects_in(path: Path) -> tuple[str, ...]:
    """Names of what a pickle would call, found without calling it; none where the file is no archive of torch."""
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # as above
        return ()
    return tuple(sorted(set(found) - set(_LOGS)))


def _with_own_names(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    changes = []
    if state and all(name.startswith(_WRAPPER) for name in state):
        state = {name.removeprefix(_WRAPPER): one for name, one in state.items()}
        changes.append(f"{_WRAPPER} taken off {len(state)} names: saved from a parallel wrapper")
    own = {name: one for name, one in state.items() if not name.startswith(_SECOND_COPY)}
    if len(own) < len(state):
        changes.append(f"{len(state) - len(own)} tensors {_SECOND_COPY}* left out: a training hook's second copy")
    return own, tuple(changes)


def _in_float32(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    others = [one.dtype for one in state.values() if one.is_floating_point() and one.dtype != torch.float32]
    kinds = " and ".join(sorted({str(dtype).removeprefix("torch.") for dtype in others}))
    converted = {name: one.float() if one.is_floating_point() else one for name, one in state.items()}
    return converted, (f"{len(others)} tensors of {kinds} became float32",) if others else ()


def _classes(content: Any) -> tuple[str, ...]:
    """The class names that mmcv (``meta.CLASSES``) or mmengine (``meta.dataset_meta.classes``) noted, or none."""
    meta = content.get("meta") if isinstance(content, dict) else None
    if not isinstance(meta, dict):
        return ()
    data = meta.get("dataset_meta")
    stated = meta.get("CLASSES") or (data.get("classes") if isinstance(data, dict) else None)
    return tuple(str(name) for name in stated) if isinstance(stated, list | tuple) else ()
