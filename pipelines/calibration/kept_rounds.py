"""Rounding keeps what it has done as training keeps its steps: in the scratch beside the artifact."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from pipelines.assembly.job import Job
from pipelines.store import processes
from pipelines.store.integrity import UnusableInput
from qdbev.engine import DamagedState, ResumeState, load_state, save_state
from qdbev.quantization import Keeper

_FOLDER = "rounding"


class KeptRounds(Keeper):
    """The rounds of an artifact in the making; sealing it removes them.

    Args:
        job: Its store.
        kind: Of the artifact.
        key: Of the artifact; the rounds of another are not taken up.
    """

    def __init__(self, job: Job, kind: str, *, key: str) -> None:
        self._scratch = lambda: job.store.scratch(kind, key=key) / _FOLDER
        self._key = key

    def kept(self) -> Mapping[str, Tensor]:
        """What a process of this key has kept.

        Raises:
            UnusableInput: It is damaged.
        """
        return processes.agreed(self._read)

    def keep(self, tensors: Mapping[str, Tensor]) -> None:
        """Keep these; of several processes, which all do the same, the first does."""
        if processes.is_first():
            save_state(self._scratch(), key=self._key, step=int(tensors["rounds"]), tensors=tensors, record={})

    def _read(self) -> Mapping[str, Tensor]:
        state = kept_state(self._scratch(), key=self._key)
        return {} if state is None else state.tensors


def kept_state(folder: Path, *, key: str) -> ResumeState | None:
    """What a process of this key has kept in a folder.

    Raises:
        UnusableInput: It is damaged.
    """
    try:
        return load_state(folder, key=key)
    except DamagedState as error:
        raise UnusableInput(str(error)) from error
