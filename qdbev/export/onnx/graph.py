"""An ONNX graph that is rewritten: nodes in order, constants by name, who makes a tensor and who reads it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qdbev.export.onnx.packages import onnx_package

if TYPE_CHECKING:
    import onnx

Array = NDArray[Any]


class Graph:
    """The graph of a model, changed in place; ``model`` is whole again after ``finish``.

    Attributes:
        nodes: In the order that they run.
        constants: Name -> value, of initialisers and of constant nodes alike.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model, self._onnx = model, onnx_package()
        graph = model.graph
        to_array = self._onnx.numpy_helper.to_array
        self.constants: dict[str, Array] = {tensor.name: to_array(tensor) for tensor in graph.initializer}
        self.nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            if node.op_type == "Constant":
                self.constants[node.output[0]] = to_array(node.attribute[0].t)
            else:
                self.nodes.append(node)

    @property
    def inputs(self) -> list[str]:
        """Names of the inputs."""
        return [value.name for value in self._model.graph.input]

    @property
    def smallest_input(self) -> str:
        """Name of the input of the fewest numbers; all shapes are fixed."""
        sizes = {
            value.name: math.prod(side.dim_value for side in value.type.tensor_type.shape.dim)
            for value in self._model.graph.input
        }
        return min(sizes, key=sizes.__getitem__)

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs."""
        return [value.name for value in self._model.graph.output]

    def producers(self) -> dict[str, onnx.NodeProto]:
        """Name of a tensor -> the node that makes it."""
        return {name: node for node in self.nodes for name in node.output}

    def readers(self) -> dict[str, list[onnx.NodeProto]]:
        """Name of a tensor -> the nodes that read it, once for each time."""
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        return readers

    def node(self, kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> onnx.NodeProto:
        """Return a new node, named after its first output; it is not in the graph yet."""
        node: onnx.NodeProto = self._onnx.helper.make_node(kind, inputs, outputs, name=outputs[0], **attributes)
        return node

    def constant(self, name: str, value: Array) -> str:
        """Keep a constant under a name, or under another one where that is taken by another value; the name it has."""
        known = self.constants.get(name)
        if known is not None and not (known.dtype == value.dtype and np.array_equal(known, value)):
            return self.constant(f"{name}_", value)
        self.constants[name] = value
        return name

    def replace(self, replacements: Mapping[int, Sequence[onnx.NodeProto]]) -> None:
        """Put nodes in the place of others, which are named by ``id``."""
        self.nodes = [new for node in self.nodes for new in replacements.get(id(node), (node,))]

    def rename(self, names: Mapping[str, str]) -> None:
        """Read other tensors in place of some."""
        for node in self.nodes:
            for place, name in enumerate(node.input):
                node.input[place] = names.get(name, name)

    def finish(self) -> onnx.ModelProto:
        """Drop what nothing reads, and write nodes and constants back into the model."""
        self.drop_unread()
        read = {name for node in self.nodes for name in node.input}
        graph = self._model.graph
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(self.nodes)
        from_array = self._onnx.numpy_helper.from_array
        graph.initializer.extend(from_array(value, name) for name, value in self.constants.items() if name in read)
        return self._model

    def join_outputs(self) -> None:
        """Let what an output is a copy of be the output itself."""
        made, outputs = self.producers(), set(self.outputs)
        copies = [node for node in of_kind(self, "Identity") if node.output[0] in outputs and node.input[0] in made]
        names = {node.input[0]: node.output[0] for node in reversed(copies)}
        joined = {id(node) for node in copies if names[node.input[0]] == node.output[0]}
        self.nodes = [node for node in self.nodes if id(node) not in joined]
        self.rename(names)
        for node in self.nodes:
            node.output[:] = [names.get(name, name) for name in node.output]

    def drop_unread(self) -> None:
        """Drop the nodes that no output needs."""
        wanted, kept = set(self.outputs), []
        for node in reversed(self.nodes):
            if wanted.intersection(node.output):
                kept.append(node)
                wanted.update(node.input)
        self.nodes = kept[::-1]


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """Attributes by name, text as ``str``."""
    helper = onnx_package().helper
    values = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


def of_kind(graph: Graph, kind: str, *, domain: str = "") -> Iterator[onnx.NodeProto]:
    """The nodes of a kind, in order."""
    return (node for node in graph.nodes if node.op_type == kind and node.domain == domain)
