"""The gate: an exported graph is run on a sequence of frames and held against the detector; what it must hold.

What is judged is local (``forced_run``): at every tap at most one step, at most one number and one more of each
thousand, and outputs that agree to a thousandth. What a free run of both gives, where differences grow from layer to
layer, is told beside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from qdbev.detectors.frame_graph import TensorGraph, Tensors
from qdbev.export.onnx.gate.forced_run import Tap, forced
from qdbev.export.onnx.gate.grouped_taps import Runs
from qdbev.export.onnx.gate.node_table import LayerFate
from qdbev.export.onnx.graph import Array

LARGEST_STEPS = 1
LARGEST_SHARE = 1e-3
LARGEST_OUTPUT = 1e-3
"""Of logits, and of box codes in metres; of features that have a size of their own, of the largest of them."""


@dataclass
class GateReport:
    """What the gate saw."""

    frames: int = 0
    """Frames that were run, the first of them without history."""
    taps: dict[str, Tap] = field(default_factory=dict)
    """Differences at the input of each layer, by path of its quantizer, in the order that layers run."""
    outputs: dict[str, float] = field(default_factory=dict)
    """Name of an output -> its largest difference, both on the same integers."""
    free_boxes: float | None = None
    """Share of box codes that are equal within a thousandth where both run freely; None where none come out."""
    taps_change: bool = False
    """Whether the graph computes something else once its taps are looked at."""
    layers: list[LayerFate] = field(default_factory=list)
    """What the runtime made of each layer."""
    foreign: list[str] = field(default_factory=list)
    """Nodes that the runtime quantized though the detector has them in float."""
    operations: dict[str, int] = field(default_factory=dict)
    """What the graph multiplies, counted from itself alone; empty where it was not counted."""
    breaches: list[str] = field(default_factory=list)
    """A sentence for each node that breaks a rule of its target."""
    miscounted: list[str] = field(default_factory=list)
    """A sentence for each layer whose count is not that of the plan."""

    def failure(self) -> str:
        """What differs where, in a sentence; empty where the graph passes."""
        wrong = [tap for tap in self.taps.values() if tap.largest > LARGEST_STEPS or _differs(tap)]
        if wrong:
            first = wrong[0]
            return (
                f"at {first.name} the graph differs by up to {first.largest} steps in {first.share:.2%} of the "
                f"numbers, the first of {len(wrong)} of {len(self.taps)} taps"
            )
        far = [f"{name} by {value:.2g}" for name, value in self.outputs.items() if not value <= LARGEST_OUTPUT]
        if far:
            return f"all taps agree, but outputs differ: {', '.join(far)}"
        changed = [layer for layer in self.layers if layer.fate == "changed"]
        if changed:
            return (
                f"the runtime multiplies {changed[0].weight} by {changed[0].operator}, which quantizes its input anew"
            )
        if self.foreign:
            return f"the runtime quantized {self.foreign[0]}, which the detector has in float"
        if self.breaches or self.miscounted:
            return [*self.breaches, *self.miscounted][0]
        return "the graph computes something else once its taps are looked at" if self.taps_change else ""

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        shares = {name: asdict(tap) | {"typical": tap.typical} for name, tap in self.taps.items()}
        return asdict(self) | {"taps": shares, "failure": self.failure()}


def _differs(tap: Tap) -> bool:
    """More numbers than lie at a tie; one does in a tap of any size."""
    return tap.differing > 1 + LARGEST_SHARE * tap.count


def check(
    frame: TensorGraph,
    *,
    session: Runs,
    tapped: Runs,
    sequence: Sequence[Tensors],
    biases: Mapping[str, Array],
) -> GateReport:
    """Run a sequence of frames of one scene through a graph and its detector.

    Args:
        frame: The detector as a graph, run by torch.
        session: The exported graph.
        tapped: The same, which also gives the integers of all taps.
        sequence: What goes in at each frame, without what is carried.
        biases: Biases that the graph holds as integers, which the detector then uses as well.
    """
    report, carried = GateReport(), frame.start()
    for feeds in sequence:
        given = {**feeds, **carried}
        found, seen = session.run(given), tapped.run(given)
        with with_biases(frame.detector, biases), forced(frame.detector, steps=seen, taps=report.taps):
            expected = frame.run(given)
        for name, value in expected.items():
            apart = (value - seen[name]).abs().max()  # of the run whose integers the detector was given
            unit = value.abs().max() if frame.foreign and apart > 0 else 1.0
            report.outputs[name] = float(np.maximum(report.outputs.get(name, 0.0), float(apart / unit)))  # keeps NaN
            report.taps_change |= not torch.equal(found[name], seen[name])
        carried = frame.carry(found)
        report.frames += 1
    if "box_codes" in frame.outputs:
        report.free_boxes = _equal_boxes(frame, session=session, sequence=sequence)
    return report


@contextmanager
def with_biases(model: nn.Module, biases: Mapping[str, Array]) -> Iterator[None]:
    """Inside, the model uses these biases."""
    parameters = {name: model.get_parameter(name) for name in biases}
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    try:
        _set(parameters, {name: torch.from_numpy(value) for name, value in biases.items()})
        yield
    finally:
        _set(parameters, before)


@torch.no_grad()
def _set(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(values[name])


def _equal_boxes(frame: TensorGraph, *, session: Runs, sequence: Sequence[Tensors]) -> float:
    """Share of box codes, of all frames, that a free run of detector and graph both have."""
    ours, theirs, equal, count = frame.start(), frame.start(), 0, 0
    for feeds in sequence:
        expected, found = frame.run({**feeds, **ours}), session.run({**feeds, **theirs})
        near = (expected["box_codes"] - found["box_codes"]).abs().amax(-1) <= LARGEST_OUTPUT
        equal, count = equal + int(near.sum()), count + near.numel()
        ours, theirs = frame.carry(expected), frame.carry(found)
    return equal / max(count, 1)
