"""``GridSample`` written as gathered rows, for targets that sample wrongly or not at all.

Bilinear sampling is four rows of the map, weighed; what lies outside weighs nothing (zero padding). TensorRT runs
GridSample of opset 20 as the nearest pixel (NVIDIA/TensorRT 4646) and, in versions 10.14 to 11.1, wrongly in the chain
of deformable attention (4813).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qdbev.export.onnx.graph import Graph, attributes_of, of_kind

if TYPE_CHECKING:
    import onnx

_BILINEAR = ("linear", "bilinear")


def gather_samples(graph: Graph, *, shapes: dict[str, tuple[int, ...]]) -> None:
    """Replace every ``GridSample``, in place.

    Args:
        graph: Changed.
        shapes: Of its tensors, before.

    Raises:
        ValueError: One that samples otherwise than linearly with zeros outside.
    """
    replacements = {}
    for node in of_kind(graph, "GridSample"):
        attributes = attributes_of(node)
        if attributes.get("mode", "linear") not in _BILINEAR or attributes.get("padding_mode", "zeros") != "zeros":
            raise ValueError(f"{node.name} samples by {attributes}; rows are gathered for linear sampling with zeros")
        replacements[id(node)] = _Sampling(node, graph, shapes=shapes, aligned=attributes.get("align_corners", 0)).nodes
    graph.replace(replacements)


class _Sampling:
    """The nodes that stand for one ``GridSample``; N maps of C channels, H x W, and P places in each."""

    def __init__(self, node: onnx.NodeProto, graph: Graph, *, shapes: dict[str, tuple[int, ...]], aligned: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self._graph, self._name = graph, node.output[0]
        image, places = node.input
        self._maps, self._channels, self._height, self._width = shapes[image]
        self._places = int(np.prod(shapes[places][1:3]))
        rows = self._rows(image)
        x, y = (self._pixels(places, axis, aligned=aligned) for axis in (0, 1))
        corners = [self._corner(rows, x_part, y_part) for y_part in y for x_part in x]
        total = corners[0]
        for corner in corners[1:]:
            total = self._add("Add", [total, corner])
        whole = self._reshaped(total, [self._maps, self._places, self._channels])
        turned = self._add("Transpose", [whole], perm=[0, 2, 1])
        shape = self._shape([self._maps, self._channels, *shapes[places][1:3]])
        self.nodes.append(graph.node("Reshape", [turned, shape], [node.output[0]]))

    def _rows(self, image: str) -> str:
        """The map as rows of channels, (N H W, C)."""
        turned = self._add("Transpose", [image], perm=[0, 2, 3, 1])
        return self._reshaped(turned, [-1, self._channels])

    def _pixels(self, places: str, axis: int, *, aligned: int) -> list[tuple[str, str]]:
        """Index and weight of the pixels before and behind each place, (N P,) each; x is axis 0."""
        size = (self._width, self._height)[axis]
        place = self._constant("axis", np.asarray(axis, np.int64))
        along = self._reshaped(self._add("Gather", [places, place], axis=3), [-1])
        factor, shift = ((size - 1) / 2, (size - 1) / 2) if aligned else (size / 2, (size - 1) / 2)
        pixel = self._add("Add", [self._add("Mul", [along, self._number(factor)]), self._number(shift)])
        before = self._add("Floor", [pixel])
        behind = self._add("Add", [before, self._number(1.0)])
        share = self._add("Sub", [pixel, before])
        rest = self._add("Sub", [self._number(1.0), share])
        return [self._inside(before, rest, size=size), self._inside(behind, share, size=size)]

    def _inside(self, pixel: str, weight: str, *, size: int) -> tuple[str, str]:
        """The nearest pixel of the map, and the weight, 0 where that is another one."""
        limits = [self._number(0.0), self._number(float(size - 1))]
        nearest = self._add("Clip", [pixel, *limits])
        is_there = self._add("Cast", [self._add("Equal", [nearest, pixel])], to=1)
        return nearest, self._add("Mul", [weight, is_there])

    def _corner(self, rows: str, x: tuple[str, str], y: tuple[str, str]) -> str:
        """Weighed rows of one of the four pixels, (N P, C)."""
        starts = np.repeat(np.arange(self._maps) * (self._height * self._width), self._places)
        line = self._add("Mul", [y[0], self._number(float(self._width))])
        cell = self._add("Cast", [self._add("Add", [line, x[0]])], to=7)
        index = self._add("Add", [cell, self._constant("starts", starts.astype(np.int64))])
        weight = self._reshaped(self._add("Mul", [x[1], y[1]]), [-1, 1])
        return self._add("Mul", [self._add("Gather", [rows, index], axis=0), weight])

    def _add(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        output = f"{self._name}/gathered.{len(self.nodes)}"
        self.nodes.append(self._graph.node(kind, inputs, [output], **attributes))
        return output

    def _reshaped(self, tensor: str, shape: Sequence[int]) -> str:
        return self._add("Reshape", [tensor, self._shape(shape)])

    def _shape(self, shape: Sequence[int]) -> str:
        return self._constant("shape", np.asarray(shape, np.int64))

    def _number(self, value: float) -> str:
        return self._constant("number", np.asarray(value, np.float32))

    def _constant(self, kind: str, value: Any) -> str:
        text = "x".join(map(str, np.atleast_1d(value).tolist())) if value.size < 8 else f"{self._name}"
        return self._graph.constant(f"gathered.{kind}.{text}", value)
