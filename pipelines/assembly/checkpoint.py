"""A checkpoint of somebody else's program -> its tensors by name, read as data: nothing that lies in it is ever called.

The bytes say what a file is, not its name: a zip of ``torch.save``, an older pickle, or safetensors. Where in it the
weights lie is for ``pipelines/assembly/containers.py``.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from pipelines.assembly.containers import Unclear, reading_of
from pipelines.assembly.foreign_arrays import STANDINS, with_tensors
from pipelines.store.integrity import UnusableInput
from profiles.wording import counted

_GROWTH = 2  # torch.save does not compress, and sparse storage is refused: a file holds what it announces
_SLACK_BYTES = 2**20
_BLOCK_BYTES = 2**22
_NAMED = 5  # objects
_ADVICE = "copy it again, or save model.state_dict() alone"


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds."""

    state: dict[str, Tensor]
    """Tensors by the detector's parameter names, floating ones as float32, on the CPU."""
    changes: tuple[str, ...]
    """What was done to names and numbers on the way, and what was left out; one sentence each."""
    classes: tuple[str, ...]
    """Class names in the order of the class scores, where the file states them."""
    marks: tuple[str, ...] = ()
    """Names of all that its ``meta`` says, such as that a program of OpenMMLab converted it."""


def read_checkpoint(path: Path, *, wanted: Collection[str] = ()) -> Checkpoint:
    """Read any file of ``torch.save`` or safetensors, whatever its name.

    Args:
        path: The file.
        wanted: The detector's own names, which decide where two places in the file could be meant.

    Raises:
        UnusableInput: It is damaged, holds objects that could run code, no tensors by name or several sets of them,
            tensors that are not whole and plain, or numbers that are not finite.
    """
    content = _content(path)
    try:
        tensors, remarks = reading_of(content, wanted=wanted)
    except Unclear as error:
        raise UnusableInput(f"{path} {error}") from None
    _refuse_what_is_not_there(tensors, path=path)
    tensors, converted = _in_float32(tensors)
    wrong = [name for name, one in tensors.items() if one.is_floating_point() and not one.isfinite().all()]
    if wrong:
        raise UnusableInput(
            f"{path} holds numbers that are not finite in {counted(len(wrong), 'tensor')} (first {wrong[0]}): its "
            "training diverged, or half precision overflowed; save it again from sound weights in float32"
        )
    return Checkpoint(tensors, (*remarks, *converted), _classes(content), _marks(content))


def _content(path: Path) -> Any:
    if not path.is_file():
        raise UnusableInput(f"{path} is no file that can be read")
    _refuse_bombs(path)
    _refuse_changed_bytes(path)
    try:
        if _is_safetensors(path):
            return load_file(path)
        with torch.serialization.safe_globals(STANDINS):  # type: ignore[arg-type]
            return with_tensors(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # foreign bytes make the readers fail in any way
        named = _objects_in(path) if isinstance(error, pickle.UnpicklingError) else ()
        some = ", ".join(named[:_NAMED]) + (", ..." if len(named) > _NAMED else "")
        reason = f"it holds {some}" if named else "it is damaged, or holds objects"
        raise UnusableInput(
            f"{path} cannot be read as plain tensors: {reason} that could run code and are never loaded; {_ADVICE}"
        ) from error


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do: the length of a header, then the header, a JSON object."""
    with path.open("rb") as file:
        start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    return path.suffix == ".safetensors" or (start[8:] == b"{" and 8 + length <= path.stat().st_size)


def _refuse_bombs(path: Path) -> None:
    """Refuse a zip whose directory announces more than the file can hold."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            announced = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError):
        return  # for torch to refuse
    size = path.stat().st_size
    if announced > _GROWTH * size + _SLACK_BYTES:
        raise UnusableInput(
            f"{path} is refused: it has {size} bytes and announces {announced}; torch.save never compresses; {_ADVICE}"
        )


def _refuse_changed_bytes(path: Path) -> None:
    """Refuse a zip in which some entries are not what their sums say: torch itself does not look.

    ``torch.save`` can be told to leave the sums out; then all are wrong, which says nothing.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            wrong = [entry.filename for entry in entries if not _is_whole(archive, entry)]
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, OSError):
        return  # for torch to refuse
    if 0 < len(wrong) < len(entries):
        raise UnusableInput(
            f"{path} is damaged: {len(wrong)} of its {len(entries)} parts are not what their checksums say (first "
            f"{wrong[0]}); copy it again"
        )


def _is_whole(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bool:
    """Whether the bytes of an entry have the checksum that its directory states."""
    try:
        with archive.open(entry) as stream:
            while stream.read(_BLOCK_BYTES):
                pass
    except zipfile.BadZipFile:
        return False
    return True


def _refuse_what_is_not_there(tensors: Mapping[str, Tensor], *, path: Path) -> None:
    """Refuse tensors without numbers of their own: on no device, not laid out plainly, or larger than their file."""
    size, total = path.stat().st_size, 0
    for name, tensor in tensors.items():
        kind = _unusual(tensor)
        total += 0 if kind else tensor.nbytes
        if not kind and (tensor.nbytes > size or total > 16 * size):
            kind = f"of {tensor.nbytes} bytes in a file of {size}"
        if kind:
            raise UnusableInput(
                f"{path} is refused: {name} is a tensor {kind}; a checkpoint holds plain tensors, as "
                "model.state_dict() gives them on a CPU or GPU"
            )


def _unusual(tensor: Tensor) -> str:
    if tensor.device.type != "cpu":
        return f"on the device {tensor.device.type}, without numbers"
    if tensor.layout != torch.strided:
        return f"of layout {str(tensor.layout).removeprefix('torch.')}"
    if tensor.is_quantized:
        return f"of {str(tensor.dtype).removeprefix('torch.')}, quantized already"
    return "that is nested" if tensor.is_nested else ""


def _objects_in(path: Path) -> tuple[str, ...]:
    """Names of what a pickle would call, found without calling it; none where the file is no archive of torch."""
    try:
        called = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # as above
        return ()
    return tuple(sorted(set(called) - {name for _, name in STANDINS}))


def _in_float32(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    others = [one.dtype for one in state.values() if one.is_floating_point() and one.dtype != torch.float32]
    kinds = " and ".join(sorted({str(dtype).removeprefix("torch.") for dtype in others}))
    converted = {name: one.float() if one.is_floating_point() else one for name, one in state.items()}
    return converted, (f"{counted(len(others), 'tensor')} of {kinds} became float32",) if others else ()


def _classes(content: Any) -> tuple[str, ...]:
    """The class names that mmcv (``meta.CLASSES``) or mmengine (``meta.dataset_meta.classes``) noted, or none."""
    meta = content.get("meta") if isinstance(content, dict) else None
    if not isinstance(meta, dict):
        return ()
    data = meta.get("dataset_meta")
    stated = meta.get("CLASSES") or (data.get("classes") if isinstance(data, dict) else None)
    return tuple(str(name) for name in stated) if isinstance(stated, list | tuple) else ()


def _marks(content: Any) -> tuple[str, ...]:
    meta = content.get("meta") if isinstance(content, dict) else None
    return tuple(str(name) for name in meta) if isinstance(meta, dict) else ()
