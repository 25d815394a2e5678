"""Integrity of an artifact folder: every byte accounted for, no pickle, nothing executed while checking."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from pipelines.store.tensors import check_numbers
from profiles.manifest import Manifest, SealedFile, UnknownVersion

MANIFEST = "manifest.json"
PICKLES = frozenset({".pth", ".pt", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".bin", ".dill"})
"""Endings of formats that may carry pickled objects; an artifact never holds one."""

_LONGEST_LIST = 200
_LARGEST_MANIFEST = 64 << 20  # bytes; a usual one has some ten thousand

T = TypeVar("T")


class UnusableInput(ValueError):
    """An artifact or data a command needs is missing or damaged; the message says which, and what to do."""


class MissingArtifact(UnusableInput):
    """No such artifact."""


class DamagedArtifact(UnusableInput):
    """The artifact is there, but it is not what was sealed."""


class FutureArtifact(DamagedArtifact):
    """The artifact was sealed by a later version of qdbev."""


class StoreUnwritable(UnusableInput):
    """The store cannot be written: disk full, no permission, or a read-only store."""


@contextlib.contextmanager
def reading_data() -> Iterator[None]:
    """Around reading a data set: what the library says of missing or half-written files becomes ``UnusableInput``.

    Raises:
        UnusableInput: With the library's own sentence, for its ValueErrors and for errors of the file system.
    """
    try:
        yield
    except UnusableInput:
        raise
    except (ValueError, OSError) as error:
        raise UnusableInput(_sentence_of(error)) from error


def fetched(batches: Iterable[T]) -> Iterator[T]:
    """The same batches, each fetched under ``reading_data``; what is done with a batch is not.

    Raises:
        UnusableInput: A file behind a batch is missing or damaged.
    """
    with reading_data():
        source = iter(batches)
    while True:
        with reading_data():
            try:
                batch = next(source)
            except StopIteration:
                return
        yield batch


def _sentence_of(error: ValueError | OSError) -> str:
    """The error's own sentence, also where it came with the traceback of a loading process around it."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    text = str(error)
    if text.startswith("Caught ") and "DataLoader worker process" in text.partition("\n")[0]:
        return text.rstrip().rpartition("\n")[2].partition(": ")[2]
    return text


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an artifact folder, itself verified to the byte; the other files are not looked at.

    Raises:
        DamagedArtifact: If it is missing, no plain file, huge, unreadable, or changed since sealing.
        FutureArtifact: If a later version of qdbev sealed it.
    """
    try:
        return Manifest.from_bytes(_bytes_of(folder / MANIFEST))
    except FileNotFoundError:
        raise DamagedArtifact(f"{folder}: {MANIFEST} is missing") from None
    except ValidationError as error:
        fields = ", ".join(sorted({".".join(str(step) for step in item["loc"]) for item in error.errors()}))
        fields = fields if len(fields) < _LONGEST_LIST else f"{fields[:_LONGEST_LIST]}..."
        raise DamagedArtifact(f"{folder}: {MANIFEST} is not a manifest (wrong: {fields or 'its structure'})") from None
    except UnknownVersion as error:
        raise FutureArtifact(f"{folder}: {MANIFEST} is of a later version: {error}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedArtifact(f"{folder}: {MANIFEST} is damaged: {error}") from None


def _bytes_of(path: Path) -> bytes:
    """The bytes of a plain file of bearable size; a pipe, a device, a link or a huge file is not read.

    Raises:
        ValueError: It is no such file.
        OSError: It cannot be read.
    """
    if not stat.S_ISREG(path.lstat().st_mode):
        raise ValueError("it is not a plain file")
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise ValueError("it is not a plain file")
        if facts.st_size > _LARGEST_MANIFEST:
            raise ValueError(f"it has {facts.st_size >> 20} MB, which no manifest needs")
        return file.read(_LARGEST_MANIFEST)


def verify_folder(folder: Path) -> Manifest:
    """Check an artifact whole: manifest, list of files, sizes, sha256, structure of the safetensors files.

    Returns:
        The manifest.

    Raises:
        DamagedArtifact: Naming the folder, the file and, for a cut safetensors file, the first tensor that is cut.
    """
    manifest = read_manifest(folder)
    present = list_files(folder)
    refuse_pickles(folder, names=[*present, *manifest.files])
    missing = sorted(set(manifest.files) - set(present))
    if missing:
        raise DamagedArtifact(f"{folder}: {', '.join(missing)} is missing")
    extra = sorted(set(present) - set(manifest.files) - {MANIFEST})
    if extra:
        raise DamagedArtifact(f"{folder}: {', '.join(extra)} does not belong to it")
    for name, sealed in sorted(manifest.files.items()):
        _verify_file(folder, name=name, sealed=sealed)
    return manifest


def list_files(folder: Path) -> list[str]:
    """Paths of all files under ``folder``, relative and with forward slashes, sorted.

    Raises:
        DamagedArtifact: If something in it is neither a folder nor a plain file (a link could point anywhere).
    """
    names = []
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode):
            names.append(path.relative_to(folder).as_posix())
        elif not stat.S_ISDIR(mode):
            raise DamagedArtifact(f"{folder}: {path.relative_to(folder)} is not a plain file")
    return names


def refuse_pickles(folder: Path, *, names: list[str]) -> None:
    """Refuse files that could carry pickled code; they are not opened.

    Raises:
        DamagedArtifact: Naming the file.
    """
    for name in names:
        if Path(name).suffix.lower() in PICKLES:
            raise DamagedArtifact(f"{folder}: {name} is of a pickle format, which an artifact never holds; not opened")


def seal_of(path: Path) -> SealedFile:
    """Size and sha256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return SealedFile(sha256=digest, bytes=path.stat().st_size)


def _verify_file(folder: Path, *, name: str, sealed: SealedFile) -> None:
    """Compare a file with its seal, and look into it where it holds tensors, whatever its seal says."""
    path = folder / name
    actual, reason = seal_of(path), ""
    if actual != sealed:
        sizes = f"has {actual.bytes} bytes, {sealed.bytes} were sealed"
        reason = sizes if actual.bytes != sealed.bytes else "was changed"
    if path.suffix == ".safetensors":
        try:
            check_numbers(path)
        except ValueError as error:
            reason += f": {error}" if reason else f"cannot be right: {error}"
    if reason:
        raise DamagedArtifact(f"{folder}: {name} {reason}")
