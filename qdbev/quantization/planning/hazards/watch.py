"""An example run that is watched for operations which quantize badly."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from qdbev.quantization.planning.hazards.hazard import REMEDIES, Hazard
from qdbev.quantization.planning.hazards.running import RunWatch
from qdbev.quantization.planning.plan import FLOAT_BITS


class WatchedHazards:
    """An example run that is watched the first time; later runs go unwatched."""

    def __init__(
        self, model: nn.Module, run: Callable[[], object], *, then: Callable[[WatchedHazards], object] | None = None
    ) -> None:
        """Runs nothing yet.

        Args:
            model: A float model.
            run: Runs it once, as it runs in prediction.
            then: Told once the first run is over.
        """
        self._model, self._run, self._then = model, run, then
        self._watch: RunWatch | None = None

    def __call__(self) -> object:
        """Run the example."""
        if self._watch is not None:
            return self._run()
        self._watch = RunWatch(self._model)
        with self._watch.watching():
            returned = self._run()
        if self._then is not None:
            self._then(self)
        return returned

    def hazards(self, bits: Mapping[str, tuple[int, int]]) -> list[Hazard]:
        """Return what the first run showed, kind by kind.

        Args:
            bits: Path of each layer -> bits of its weights and of its inputs, as planned. Of a layer that stays in
                float (32 bits, or not named) nothing is said.
        """
        if self._watch is None:
            return []
        hazards = self._watch.of_operations()
        for finding in self._watch.findings():
            width = bits.get(finding.layer, (FLOAT_BITS, FLOAT_BITS))[0 if finding.of_weights else 1]
            if width < FLOAT_BITS and (hazard := finding.hazard(width)):
                hazards.append(hazard)
        order = list(REMEDIES)
        return sorted(hazards, key=lambda hazard: order.index(hazard.code))
