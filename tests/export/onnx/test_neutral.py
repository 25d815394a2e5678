"""The neutral graph: shapes that are known are written as numbers, those that a frame decides are computed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qdbev.detectors.frame_graph import FrameGraph
from qdbev.export.onnx import neutral
from qdbev.export.onnx.execution import OrtSession


class Reshaping(FrameGraph):
    """What detectors do to shapes; ``by_rows`` lets numbers decide how many rows there are."""

    outputs = ("in_two", "middle", "front", "back", "wide")

    def __init__(self, *, by_rows: bool) -> None:
        super().__init__()
        self.detector, self.by_rows = nn.Identity(), by_rows
        self.inputs = {"x": torch.arange(48.0).view(4, 6, 2) - 20}

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        rows = x[x[:, 0, 0].gt(0).nonzero()[:, 0]] if self.by_rows else x
        fourfold = rows.unflatten(1, (2, 3))  # a middle axis, rows before it
        columns = rows.transpose(0, -1).unflatten(0, (1, 2))  # a first axis, rows after it
        wide = rows[..., None].expand(-1, 6, -1, 3)
        return rows.flatten(1), fourfold.flatten(2, 3), columns.flatten(1, 2), fourfold.flatten(0, 1), wide

    feeds = start = carry = detections = None  # type: ignore[assignment]


@pytest.mark.parametrize("by_rows", [False, True])
def test_reshapes_are_those_of_torch(by_rows: bool) -> None:
    frame = Reshaping(by_rows=by_rows)
    session = OrtSession(neutral.neutral_graph(frame, lists_rows=by_rows))
    for shift in (0.0, 12.0, -12.0):  # other numbers of rows than those that were traced
        feeds = {"x": frame.inputs["x"] + shift}
        found = session.run(feeds)
        assert all(torch.equal(found[name], expected) for name, expected in frame.run(feeds).items())


def test_a_known_shape_is_one_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch's exporter writes twenty nodes for each, which take a quarter of the time of an export."""
    monkeypatch.setattr(neutral, "fold_constants", lambda model: model)
    model: Any = neutral.neutral_graph(Reshaping(by_rows=False))
    kinds = Counter(node.op_type for node in model.graph.node)
    assert set(kinds) == {"Flatten", "Reshape", "Transpose", "Unsqueeze", "Expand", "Constant"}
    assert kinds["Reshape"] == 5 and kinds["Constant"] == 7  # and the axis and the size of what is widened
