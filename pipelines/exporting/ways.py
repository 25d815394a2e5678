"""How a graph for each target is made, and who runs it here: a row for each target that graphs are written for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from qdbev.export.onnx.device.lowering import device_graph
from qdbev.export.onnx.device.session import DeviceSession
from qdbev.export.onnx.execution import OpenVinoSession, OrtSession, Session
from qdbev.export.onnx.lowering import Lowered, runtime_graph
from qdbev.export.onnx.packages import openvino_package, runtime_package
from qdbev.export.onnx.qonnx.lowering import quant_graph
from qdbev.export.onnx.qonnx.session import QonnxSession
from qdbev.export.targets.device_rules import DEVICE_RULES
from qdbev.export.targets.structure import GraphRule

SIMULATION = "simulation"
"""What runs a graph for a device that is not here, in place of a runtime: torch, at the device's bits."""


@dataclass(frozen=True)
class Way:
    """How a target gets its graph.

    Attributes:
        lower: Makes its graph of the neutral one.
        session: Runs it here, with the integers of its taps.
        runtime: What ``evaluate`` runs it by where nothing else is asked for.
        package: What has to be installed, by the name that pip knows.
        imported: Imports it, or says in a sentence that it is missing.
        lists_rows: Whether the graph lists who looks where in each frame; otherwise its shapes are fixed.
        counts: Whether the operations that the graph shows are held against those of the plan.
        rules: What the graph has to look like, where the target is not here; the detector then gets its bits first.
    """

    lower: Callable[[Any], Lowered]
    session: type[Session]
    runtime: str
    package: str = "onnxruntime"
    imported: Callable[[], Any] = runtime_package
    lists_rows: bool = False
    counts: bool = False
    rules: tuple[GraphRule, ...] = ()


def _device(target: str) -> Way:
    return Way(partial(device_graph, target=target), DeviceSession, SIMULATION, rules=DEVICE_RULES[target])


WAYS: Mapping[str, Way] = {
    "ort": Way(runtime_graph, OrtSession, "ort", lists_rows=True),
    "openvino": Way(
        partial(runtime_graph, target="openvino"), OpenVinoSession, "openvino", "openvino", openvino_package
    ),
    "tensorrt": _device("tensorrt"),
    "qnn": _device("qnn"),
    "qonnx": Way(quant_graph, QonnxSession, "ort", counts=True),
}
"""Target -> its way."""
