"""Ranges keep what was seen of the samples, in the scratch beside the artifact: a killed command goes on there.

Histograms of a large detector take a while to write, so they are kept from time to time.
"""

from __future__ import annotations

import time

from pipelines.assembly.detector import Detector
from pipelines.assembly.job import Job
from pipelines.calibration.kept_rounds import kept_state
from pipelines.store import processes
from qdbev.engine import save_state
from qdbev.quantization import observe_on, observed

_FOLDER = "ranges"
_HISTORY = "history/"
_EVERY_S = 20.0


class KeptRanges:
    """What the quantizers of a detector have seen; sealing the artifact removes it.

    Args:
        job: Its store and device.
        kind: Of the artifact.
        key: Of the artifact; what was seen for another is not taken up.
    """

    def __init__(self, job: Job, kind: str, *, key: str) -> None:
        self._scratch = lambda: job.store.scratch(kind, key=key) / _FOLDER
        self._job, self._key = job, key
        self._at_s = time.monotonic()

    def take_up(self, detector: Detector) -> int:
        """Let quantizers and history go on from what was kept; the number of samples that were seen.

        Raises:
            UnusableInput: It is damaged.
        """
        state = processes.agreed(lambda: kept_state(self._scratch(), key=self._key))
        self._at_s = time.monotonic()
        if state is None:
            return 0
        tensors = {name: tensor.to(self._job.device) for name, tensor in state.tensors.items()}
        history = {name: tensors.pop(name) for name in list(tensors) if name.startswith(_HISTORY)}
        detector.history.take_up({name.removeprefix(_HISTORY): tensor for name, tensor in history.items()})
        observe_on(detector, tensors)
        return state.step

    def keep(self, detector: Detector, *, done: int) -> None:
        """Keep what was seen of so many samples, if that is due; of several processes the first does."""
        if time.monotonic() - self._at_s < _EVERY_S or not processes.is_first():
            return
        history = {f"{_HISTORY}{name}": tensor for name, tensor in detector.history.last_scene().items()}
        tensors = observed(detector) | history
        save_state(self._scratch(), key=self._key, step=done, tensors=tensors, record={})
        self._at_s = time.monotonic()
