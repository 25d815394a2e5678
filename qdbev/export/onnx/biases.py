"""Biases of layers that run in integers, as ONNX Runtime takes them.

A convolution from grid to grid runs in integers only with a bias of int32 in steps of input scale times weight scale; a
float one is put onto that grid without a word. With four bits a step is coarse: half of it moves every two hundredth
activation by one. So weights are read as larger integers with a smaller scale, as far as a byte and the sums of two
products in 16 bits hold them, and the bias has that much finer steps. Even so, rounded biases are most of what a free
run differs by. So small convolutions keep theirs in float, as those before a sum do (``convolutions``); of large ones
that would take half as long again.

An offset of the input of a linear layer is constant, and so is what it adds to the output: it goes into the bias.

The product of a linear layer stays in float, and its bias too. It is subtracted, negated: what is added would be taken
into a ``Gemm``, which multiplies floats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

import numpy as np

from qdbev.export.onnx.activations import STEPS, Grid
from qdbev.export.onnx.convolutions import can_be_rows
from qdbev.export.onnx.graph import Array, Graph, of_kind
from qdbev.export.onnx.stored_weights import VALUES, Stored

_LARGEST = 2**31 - 1
SMALL = 1 << 26
"""Multiplications of a convolution below which its bias stays in float, and ``multiply_rows`` takes it."""


def write_biases(
    graph: Graph, *, grids: dict[str, Grid], stored: dict[str, Stored], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Array]:
    """Write the biases of layers of integers for ONNX Runtime; some weights get larger integers in ``stored``.

    Args:
        graph: Changed in place.
        grids: By the tensor that they give.
        stored: Name of a tensor -> the weight that it is.
        shapes: Of tensors; a convolution whose output has none is taken for a large one.

    Returns:
        Name of each bias that is in integers -> the values that these stand for.
    """
    readers, before, moved = graph.readers(), [], dict[str, Array]()
    for node in of_kind(graph, "Conv"):
        x, weight, *bias = node.input
        follows = [reader.op_type for reader in readers.get(node.output[0], [])]
        if not bias or x not in grids or weight not in stored or grids[x].offset or follows != ["QuantizeLinear"]:
            continue
        places = shapes.get(node.output[0], (SMALL,))
        small = prod(places) * stored[weight].integers[0].size < SMALL
        if small and can_be_rows(node, grid=grids[x], weight=stored[weight]):
            continue
        finer = replace(stored[weight], finer=_finer(grids[x], stored[weight]))
        scale = (grids[x].scale * (finer.scale / np.float32(finer.finer))).astype(np.float32)
        steps = np.rint(graph.constants[bias[0]] / scale)
        if np.abs(steps).max() > _LARGEST:
            continue
        stored[weight] = finer
        scales = np.ascontiguousarray(np.broadcast_to(scale, steps.shape))
        names = [
            graph.constant(f"{bias[0]}{STEPS}", steps.astype(np.int32)),
            graph.constant(f"{bias[0]}_scale", scales),
        ]
        before.append(graph.node("DequantizeLinear", names, [f"{bias[0]}{VALUES}"], axis=0))
        node.input[2] = f"{bias[0]}{VALUES}"
        moved[bias[0]] = steps.astype(np.float32) * scales
    graph.nodes[:0] = before
    _subtract_biases(graph, grids=grids)
    return moved


def fold_offsets(graph: Graph, *, grids: dict[str, Grid], stored: dict[str, Stored]) -> None:
    """Let linear layers multiply what integers stand for without the offset, and add its product to the bias.

    Between the two, an offset parts a product from its grid: ONNX Runtime would make integers of its own of the sum.
    """
    readers, replacements = graph.readers(), {}
    for node in of_kind(graph, "MatMul"):
        grid, weight = grids.get(node.input[0]), stored.get(node.input[1])
        if grid is None or weight is None or not grid.offset:
            continue
        sums = (weight.integers * weight.spread_scale).sum(axis=0, dtype=np.float64) * grid.offset
        node.input[0] = f"{grid.name}{VALUES}"
        grids[node.input[0]] = grid
        after = readers.get(node.output[0], [])
        bias = next((name for reader in after for name in reader.input if name in graph.constants), None)
        if len(after) == 1 and after[0].op_type == "Add" and bias is not None:
            moved = graph.constant(f"{bias}.shifted", (graph.constants[bias] + sums).astype(np.float32))
            after[0].input[:] = [node.output[0], moved]
        else:
            shift = graph.constant(f"{weight.name}.shift", sums.astype(np.float32))
            product = graph.node("MatMul", node.input, [f"{node.output[0]}/product"])
            replacements[id(node)] = [product, graph.node("Add", [product.output[0], shift], [node.output[0]])]
    graph.replace(replacements)
    graph.drop_unread()


def _finer(grid: Grid, weight: Stored) -> int:
    """The largest power of two that a byte, and two products with the largest input in 16 bits, have room for."""
    low, high = int(weight.integers.min()), int(weight.integers.max())
    largest, most = max(-low, high, 1), grid.high - grid.low
    factor = 1
    while 2 * factor * low >= -128 and 2 * factor * high <= 127 and 2 * most * (2 * factor * largest) < 1 << 15:
        factor *= 2
    return factor


def _subtract_biases(graph: Graph, *, grids: dict[str, Grid]) -> None:
    producers, replacements = graph.producers(), {}
    for node in of_kind(graph, "Add"):
        constants = [name for name in node.input if name in graph.constants]
        others = [name for name in node.input if name not in graph.constants]
        if len(constants) != 1 or len(others) != 1 or others[0] not in producers:
            continue
        product = producers[others[0]]
        if product.op_type == "MatMul" and product.input[0] in grids:
            negative = graph.constant(f"{constants[0]}.negated", -graph.constants[constants[0]])
            replacements[id(node)] = [graph.node("Sub", [others[0], negative], [node.output[0]])]
    graph.replace(replacements)
