"""``ScatterND`` that adds rows up written as ``ScatterElements``, for TensorRT.

Its parser reads no ``ScatterND`` with a reduction (onnx/onnx-tensorrt 957). ``ScatterElements`` with one is run by the
plugin of that name in NVIDIA/TensorRT, for which every number of a row needs an index of its own. That parser wanted no
more indices than the map has rows (NVIDIA/TensorRT 3650), and frustum pooling never adds more at once.
"""

from __future__ import annotations

import numpy as np

from qdbev.export.onnx.graph import Graph, attributes_of, of_kind


def add_elements(graph: Graph, *, shapes: dict[str, tuple[int, ...]]) -> None:
    """Replace every ``ScatterND`` that adds rows, in place.

    Args:
        graph: Changed.
        shapes: Of its tensors, before.
    """
    replacements = {}
    for node in of_kind(graph, "ScatterND"):
        if attributes_of(node).get("reduction") == "add":
            into, index, rows = node.input
            shape = np.asarray(shapes[rows], np.int64)
            names = [index, graph.constant(f"shape.{'x'.join(map(str, shape))}", shape)]
            spread = graph.node("Expand", names, [f"{node.output[0]}/index"])
            added = graph.node("ScatterElements", [into, spread.output[0], rows], node.output, axis=0, reduction="add")
            replacements[id(node)] = [spread, added]
    graph.replace(replacements)
