"""What a graph for a target must look like: rules as rows, each with its source, and a check that says who breaks one.

Devices that are not here cannot refuse a graph, nor be wrong before our eyes. What their documentation says is written
down instead, and every graph is held against it before it is sealed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from qdbev.export.onnx.graph import Array, Graph, attributes_of
from qdbev.export.onnx.shapes import known_shapes

if TYPE_CHECKING:
    import onnx


class View:
    """A graph as rules look at it.

    Attributes:
        graph: Its nodes and constants.
        opset: Version of the standard operators.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        """Reads a model."""
        self.graph = Graph(model)
        self.opset = next((entry.version for entry in model.opset_import if not entry.domain), 0)
        self._model = model
        self.producers, self.readers = self.graph.producers(), self.graph.readers()

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every shape that follows from those of the inputs."""
        return known_shapes(self._model)

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """All nodes, in order."""
        return self.graph.nodes

    def of_kind(self, *kinds: str) -> Iterator[onnx.NodeProto]:
        """The nodes of some kinds."""
        return (node for node in self.nodes if node.op_type in kinds)

    def constant(self, name: str) -> Array | None:
        """The value of a constant."""
        return self.graph.constants.get(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a constant, or of a tensor whose shape is known; () of another one."""
        constant = self.constant(name)
        return self.shapes.get(name, ()) if constant is None else constant.shape

    def integers(self, node: onnx.NodeProto) -> str:
        """Type of the integers of a QuantizeLinear or DequantizeLinear, such as ``int8``."""
        constant = self.constant(node.input[0]) if node.op_type == "DequantizeLinear" else None
        zero = self.constant(node.input[2]) if len(node.input) > 2 else None
        given = constant if constant is not None else zero
        return "uint8" if given is None else str(given.dtype)

    def weight(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        """The DequantizeLinear of constant integers that a product multiplies by."""
        source = self.producers.get(node.input[1])
        if source is None or source.op_type != "DequantizeLinear" or self.constant(source.input[0]) is None:
            return None
        return source

    def is_per_axis(self, node: onnx.NodeProto) -> bool:
        """Whether a QuantizeLinear or DequantizeLinear has more than one scale."""
        scale = self.constant(node.input[1])
        return scale is not None and scale.size > 1

    def attribute(self, node: onnx.NodeProto, name: str, default: Any) -> Any:
        """An attribute of a node."""
        return attributes_of(node).get(name, default)


Check = Callable[[View], Iterator[str]]


@dataclass(frozen=True)
class GraphRule:
    """One thing that must hold.

    Attributes:
        name: A word for it.
        says: What must hold.
        source: Who says so, and when it was read.
        broken_by: Yields the names of the nodes that break it.
    """

    name: str
    says: str
    source: str
    broken_by: Check


@dataclass(frozen=True)
class Breach:
    """A node that breaks a rule."""

    rule: GraphRule
    node: str

    def __str__(self) -> str:
        """Which node, and which rule."""
        return f"{self.node} breaks the rule {self.rule.name!r}: {self.rule.says} ({self.rule.source})"


def breaches(model: onnx.ModelProto, *, rules: tuple[GraphRule, ...]) -> list[Breach]:
    """Whoever breaks a rule, rule by rule."""
    view = View(model)
    return [Breach(rule, node) for rule in rules for node in rule.broken_by(view)]
