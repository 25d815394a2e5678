"""Packed models: integers of 2 to 8 bits in safetensors, with a ``config.json``; written, read, compared."""

from __future__ import annotations

from qdbev.export.packed.config import FORMAT_VERSION, Unreadable
from qdbev.export.packed.folder import CONFIG, WEIGHTS, PackedFolder, read_packed, write_packed
from qdbev.export.packed.state import Limits, PackedState, packed_state, unpacked_state

__all__ = [
    "CONFIG",
    "FORMAT_VERSION",
    "WEIGHTS",
    "Limits",
    "PackedFolder",
    "PackedState",
    "Unreadable",
    "packed_state",
    "read_packed",
    "unpacked_state",
    "write_packed",
]
