"""The names that files for other programs speak of: programs that load them ask by these words."""

from __future__ import annotations

from qdbev.detectors.bevformer.frame_graph import BEVFormerGraph
from qdbev.detectors.queries.frame_graph import QueryGraph


def test_outputs_are_called_as_in_every_file_before() -> None:
    assert BEVFormerGraph.outputs == ("class_logits", "box_codes", "bev")
    assert BEVFormerGraph.carried == {"bev": "prev_bev"}
    assert QueryGraph.outputs == ("class_logits", "box_codes")


def test_each_input_and_output_is_explained() -> None:
    told = {"image", "can_bus", "lidar2img", "prev_bev", "has_prev_bev", "class_logits", "box_codes", "bev"}
    assert set(BEVFormerGraph.meanings) == told
