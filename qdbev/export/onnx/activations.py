"""Inputs of layers onto their grids: QuantizeLinear, a Clip of the integers, DequantizeLinear (QCDQ, as brevitas says).

ONNX has no type of six bits; the Clip between the two keeps the grid exact. Integers are unsigned, as x86 multiplies
them: ``q - low``, with the zero of the grid at ``-low``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from qdbev.export.onnx.graph import Array, Graph, attributes_of, of_kind

if TYPE_CHECKING:
    import onnx

STEPS = "/steps"
"""End of the name of a tensor of integers: ``<path of the quantizer>/steps``, of which the zero is ``-low``."""


@dataclass(frozen=True)
class Grid:
    """The grid of one input.

    Attributes:
        name: Path of the quantizer.
        scale: The step, float32.
        offset: What the integer 0 stands for.
        low: Smallest integer.
        high: Largest integer.
    """

    name: str
    scale: Array
    offset: float
    low: int
    high: int

    @property
    def zero(self) -> int:
        """What stands for the integer 0 where the smallest one is 0."""
        return -self.low


def grid_of(node: onnx.NodeProto, graph: Graph) -> Grid:
    """The grid of a ``qdbev::Grid``.

    Raises:
        ValueError: More integers than a byte tells apart.
    """
    attributes = attributes_of(node)
    scale, offset = (graph.constants[name] for name in node.input[1:])
    low, high = attributes["low"], attributes["high"]
    if high - low > 255:
        raise ValueError(
            f"{attributes['name']} has {high - low + 1} steps, and an activation of an exported graph has 256 at most: "
            "give it 8 bits or fewer"
        )
    return Grid(attributes["name"], scale, float(offset), low, high)


def write_grids(
    graph: Graph, *, bare: bool = False, signed: bool = False, clips_bytes: bool = False, shares: bool = False
) -> dict[str, Grid]:
    """Write every grid as QCDQ; returns the grids by the tensor that they give.

    Args:
        graph: Changed in place.
        bare: Nothing stands between Q and DQ: grids are whole bytes, and only those from zero on do a ReLU's work.
        signed: Integers are INT8 around zero, as the grids themselves are.
        clips_bytes: A Clip stands behind a whole byte, too, which it does not change.
        shares: What grids read that are all one is put onto it once, and where it was pooled, integers are pooled.
            ONNX Runtime would join them by itself, and then put the bias of the layer before onto a grid of its own.
    """
    producers, readers = graph.producers(), graph.readers()
    replacements, grids = {}, {}
    pooled = _pools_of_one_grid(graph, readers=readers) if shares else {}
    steps_of: dict[str, str] = {}
    for node in of_kind(graph, "Grid", domain="qdbev"):
        grid, pool = grid_of(node, graph), pooled.get(node.input[0])
        grids[node.output[0]] = grid
        if (steps := steps_of.get(node.input[0])) is not None:
            replacements[id(node)] = _same(grid, graph, steps=steps, output=node.output[0])
            continue
        source, floor = _unrectified(node.input[0] if pool is None else pool.input[0], producers, readers, graph)
        if bare and (signed or grid.low < 0):
            source, floor = node.input[0], False
        zero = np.asarray(0, np.int8) if signed else np.asarray(grid.zero, np.uint8)
        replacements[id(node)] = _nodes_of(
            grid,
            graph,
            source=source,
            output=node.output[0],
            rectified=floor,
            zero_point=zero,
            always_clips=clips_bytes,
            pool=pool,
        )
        if shares and _is_read_by_one_grid(node.input[0], graph, readers=readers):
            steps_of[node.input[0]] = f"{grid.name}{STEPS}"
    graph.replace(replacements)
    graph.drop_unread()
    return grids


def _pools_of_one_grid(graph: Graph, *, readers: dict[str, list[onnx.NodeProto]]) -> dict[str, onnx.NodeProto]:
    """Output of each ``MaxPool`` that only grids read which are all the same -> the node.

    The largest of some numbers is on the grid what it was before, so the pool may read integers: the layer before it
    then ends on a grid.
    """
    pools = {}
    for node in of_kind(graph, "MaxPool"):
        if len(node.output) > 1 or len(readers[node.input[0]]) > 1:
            continue
        if _is_read_by_one_grid(node.output[0], graph, readers=readers):
            pools[node.output[0]] = node
    return pools


def _is_read_by_one_grid(tensor: str, graph: Graph, *, readers: dict[str, list[onnx.NodeProto]]) -> bool:
    """Whether only grids read a tensor, all of them the same and around zero."""
    following = readers.get(tensor, [])
    if not following or tensor in graph.outputs or any(reader.op_type != "Grid" for reader in following):
        return False
    first, *others = (grid_of(reader, graph) for reader in following)
    return not first.offset and all(replace(other, name=first.name) == first for other in others)


def _unrectified(
    tensor: str, producers: dict[str, onnx.NodeProto], readers: dict[str, list[onnx.NodeProto]], graph: Graph
) -> tuple[str, bool]:
    """What a ReLU read that grids alone read, and whether there is one: the Clip does its work, on integers."""
    node = producers.get(tensor)
    if node is None or node.op_type != "Relu" or tensor in graph.outputs:
        return tensor, False
    if any(reader.op_type not in ("Grid", "MaxPool") for reader in readers[tensor]):
        return tensor, False
    return node.input[0], True


def _same(grid: Grid, graph: Graph, *, steps: str, output: str) -> list[onnx.NodeProto]:
    """A grid of which another one made the integers."""
    scale = graph.constant(f"{grid.name}.scale", grid.scale)
    zero = graph.constant(f"zero.{grid.zero}", np.asarray(grid.zero, np.uint8))
    own = f"{grid.name}{STEPS}"
    return [graph.node("Identity", [steps], [own]), graph.node("DequantizeLinear", [own, scale, zero], [output])]


def _nodes_of(
    grid: Grid,
    graph: Graph,
    *,
    source: str,
    output: str,
    rectified: bool,
    zero_point: Array,
    always_clips: bool,
    pool: onnx.NodeProto | None,
) -> list[onnx.NodeProto]:
    scale = graph.constant(f"{grid.name}.scale", grid.scale)
    zero = graph.constant(f"zero.{zero_point}", zero_point)
    nodes, steps, values = [], f"{grid.name}{STEPS}", output
    if grid.offset:
        beta = graph.constant(f"{grid.name}.offset", np.asarray(grid.offset, np.float32))
        nodes.append(graph.node("Sub", [source, beta], [f"{grid.name}/shifted"]))
        source, values = f"{grid.name}/shifted", f"{grid.name}/values"
        rectified = False
    least, most = (grid.zero if rectified and grid.offset == 0 else 0), grid.high - grid.low
    clipped, whole = least > 0 or most < 255 or always_clips, steps if pool is None else f"{grid.name}/whole"
    nodes.append(graph.node("QuantizeLinear", [source, scale, zero], [f"{grid.name}/rounded" if clipped else whole]))
    if clipped:
        limits = [graph.constant(f"limit.{limit}", np.asarray(limit, np.uint8)) for limit in (least, most)]
        nodes.append(graph.node("Clip", [f"{grid.name}/rounded", *limits], [whole]))
    if pool is not None:
        nodes.append(graph.node("MaxPool", [whole], [steps], **attributes_of(pool)))
    nodes.append(graph.node("DequantizeLinear", [steps, scale, zero], [values]))
    return nodes + ([graph.node("Add", [values, beta], [output])] if grid.offset else [])
