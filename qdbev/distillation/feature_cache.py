"""Tensors on disk, one checked file per sample: what a frozen teacher gives for a sample is computed once.

A file is whole or is not there, and carries a checksum of its tensors. One that is cut or changed counts as absent, so
its sample is computed again; nothing wrong is ever read.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

_CHECKSUM = "crc32"


class FeatureCache:
    """Tensors by name for every key, in files of one folder; several processes may share it.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cache = FeatureCache(Path(folder))
    ...     cache.save("one", {"bev": torch.tensor([1.0, 2.0])})
    ...     cache.load("one")["bev"].tolist(), cache.load("two")
    ([1.0, 2.0], None)
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, key: str) -> dict[str, Tensor] | None:
        """Give the tensors of a key on the CPU, or None where there are none or the file is damaged."""
        try:
            with safe_open(self._path(key), framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
                stated = (file.metadata() or {}).get(_CHECKSUM)
        except (OSError, SafetensorError, ValueError):
            return None
        return tensors if stated == _checksum(tensors) else None

    def save(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Write the tensors of a key, in place of what was there.

        Raises:
            OSError: The folder cannot be written.
        """
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        self.folder.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.folder, prefix=".unfinished-")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(save(plain, metadata={_CHECKSUM: _checksum(plain)}))
            os.replace(name, self._path(key))
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """Over names, kinds, shapes and bytes of contiguous tensors; no flush to the disk is needed with it."""
    value = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode(), value)
        value = zlib.crc32(tensor.flatten().view(torch.uint8).numpy().data, value)
    return f"{value:08x}"
