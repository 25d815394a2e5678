"""Packed models: integers of 2 to 8 bits in safetensors, with a ``config.json``; written, read, compared."""

from __future__ import annotations

from qdbev.export.packed.card import Licence, Score, Scored, model_card
from qdbev.export.packed.config import FORMAT_VERSION, Unreadable
from qdbev.export.packed.folder import CARD, CONFIG, WEIGHTS, PackedFolder, read_packed, write_packed
from qdbev.export.packed.integers import execute_integers
from qdbev.export.packed.sizes import Sizes, sizes_of, sizes_of_state
from qdbev.export.packed.state import Limits, PackedState, packed_state, unpacked_state

__all__ = [
    "CARD",
    "CONFIG",
    "FORMAT_VERSION",
    "WEIGHTS",
    "Licence",
    "Limits",
    "PackedFolder",
    "PackedState",
    "Score",
    "Scored",
    "Sizes",
    "Unreadable",
    "execute_integers",
    "model_card",
    "packed_state",
    "read_packed",
    "sizes_of",
    "sizes_of_state",
    "unpacked_state",
    "write_packed",
]
