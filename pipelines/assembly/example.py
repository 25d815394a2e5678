"""An example of what a detector sees: the first frames of a scene, read once, run as often as something is watched."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch

from pipelines.assembly.detector import Detector, inputs_on
from pipelines.assembly.samples import Split, streaming_dataset
from pipelines.store.integrity import fetched
from profiles import Profile
from qdbev.data.queues.batches import streaming_batches


class Example:
    """Runs the same frames at every call, as prediction runs them; leaves no history behind."""

    def __init__(self, detector: Detector, *, profile: Profile, split: Split, frames: int = 2) -> None:
        """Runs nothing yet.

        Args:
            detector: Put in eval mode; the images go to the device its parameters are on.
            profile: Its model section.
            split: Whose first frames are run.
            frames: How many, two so that history is used too.
        """
        self._detector, self._model = detector, profile.model
        self._split = replace(split, samples=split.samples[:frames], digest="")

    def __call__(self) -> list[Any]:
        """Run the frames; what each returned."""
        device = next(self._detector.parameters()).device
        self._detector.eval().history.reset()
        with torch.no_grad():
            returned = [self._predict(batch, device=device) for batch in copy.deepcopy(self._batches)]
        self._detector.history.reset()
        return returned

    def _predict(self, batch: dict[str, Any], *, device: torch.device) -> Any:
        return self._detector(inputs_on(batch, device=device), batch["data_samples"], mode="predict")

    @cached_property
    def _batches(self) -> list[dict[str, Any]]:
        dataset = streaming_dataset(self._split, model=self._model)
        return list(fetched(streaming_batches(dataset, streams=1, workers=0)))
