"""A graph for a device that is not here, run as it is written: ONNX Runtime, with nothing rewritten."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from qdbev.export.onnx.execution import OrtSession
from qdbev.export.onnx.gate.node_table import LayerFate
from qdbev.export.onnx.graph import Graph
from qdbev.export.onnx.stored_weights import VALUES

if TYPE_CHECKING:
    import onnx


class DeviceSession(OrtSession):
    """What a device that follows the graph to the letter would compute."""

    def __init__(self, model: onnx.ModelProto, *, threads: int = 1, taps: Sequence[str] = ()) -> None:
        """See ``Session``."""
        super().__init__(model, threads=threads, taps=taps, optimise=False)
        self._written = model

    def layers(self, weights: Iterable[str]) -> list[LayerFate]:
        """Integers where both sides of a product come from grids; what a device fuses beyond that is not seen here."""
        graph = Graph(self._written)
        producers, readers, fates = graph.producers(), graph.readers(), []
        for weight in weights:
            for node in readers.get(f"{weight}{VALUES}", []):
                source = producers.get(node.input[0])
                from_grid = source is not None and source.op_type == "DequantizeLinear"
                fates.append(LayerFate(weight, node.op_type, "integers" if from_grid else "float"))
        return fates

    def foreign(self, weights: Iterable[str]) -> list[str]:
        """Nothing: nothing was rewritten."""
        return []
