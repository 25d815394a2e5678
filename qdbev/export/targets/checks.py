"""Checks that rules of targets are made of; each yields the names of the nodes that do not hold it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qdbev.export.targets.structure import Check, View

_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_PRODUCTS = ("Conv", "MatMul", "Gemm")


def opset_between(least: int, most: int) -> Check:
    """The version of the standard operators lies between two."""

    def check(view: View) -> Iterator[str]:
        if not least <= view.opset <= most:
            yield f"opset {view.opset}"

    return check


def only_operators(names: str) -> Check:
    """All nodes are standard ones of a list, of words."""
    known = frozenset(names.split())

    def check(view: View) -> Iterator[str]:
        return (f"{node.op_type} {node.name}" for node in view.nodes if node.domain or node.op_type not in known)

    return check


def integers_of(*, quantized: str, dequantized: str) -> Check:
    """QuantizeLinear gives, and DequantizeLinear takes, integers of these types, of words."""
    allowed = {"QuantizeLinear": quantized.split(), "DequantizeLinear": dequantized.split()}

    def check(view: View) -> Iterator[str]:
        return (node.name for node in view.of_kind(*_QUANTIZERS) if view.integers(node) not in allowed[node.op_type])

    return check


def zero_points_are_zero(view: View) -> Iterator[str]:
    """Grids are symmetric."""
    for node in view.of_kind(*_QUANTIZERS):
        zero = view.constant(node.input[2]) if len(node.input) > 2 else None
        if len(node.input) > 2 and (zero is None or np.asarray(zero, np.int32).any()):
            yield node.name


def weights_are_symmetric(view: View) -> Iterator[str]:
    """Grids of weights are."""
    for node in view.of_kind("DequantizeLinear"):
        is_weight = view.constant(node.input[0]) is not None and len(node.input) > 2
        if is_weight and np.asarray(view.constant(node.input[2]), np.int32).any():
            yield node.name


def scales_are_constant(view: View) -> Iterator[str]:
    """So are they known when the engine is built."""
    return (node.name for node in view.of_kind(*_QUANTIZERS) if view.constant(node.input[1]) is None)


def one_scale_for_inputs(view: View) -> Iterator[str]:
    """Only constants have a scale for each channel."""
    for node in view.of_kind(*_QUANTIZERS):
        if view.is_per_axis(node) and view.constant(node.input[0]) is None:
            yield node.name


def channels_are_outputs(view: View) -> Iterator[str]:
    """Scales of a weight belong to outputs: axis 0 of a convolution, the last one of a product."""
    for node in view.of_kind(*_PRODUCTS):
        weight = view.weight(node)
        if weight is not None and view.is_per_axis(weight):
            rank = len(view.graph.constants[weight.input[0]].shape)
            turned = node.op_type == "Gemm" and view.attribute(node, "transB", 0)
            wanted = 0 if node.op_type == "Conv" or turned else rank - 1
            if view.attribute(weight, "axis", 1) % rank != wanted:
                yield weight.name


def four_bits_are_static(view: View) -> Iterator[str]:
    """INT4 is of constants alone."""
    for node in view.of_kind(*_QUANTIZERS):
        if view.integers(node) == "int4" and view.constant(node.input[0]) is None:
            yield node.name


def four_bits_multiply_floats(view: View) -> Iterator[str]:
    """INT4 weights stand in products whose other side is in float."""
    for weight in view.of_kind("DequantizeLinear"):
        if view.integers(weight) != "int4":
            continue
        for node in view.readers.get(weight.output[0], []):
            other = view.producers.get(node.input[0])
            if node.op_type not in ("MatMul", "Gemm") or (other is not None and other.op_type == "DequantizeLinear"):
                yield node.name


def four_bits_are_wide_and_pointwise(view: View) -> Iterator[str]:
    """INT4 weights stand in 1x1 convolutions with stride 1 and in products, of more than 32 outputs."""
    for node in view.of_kind(*_PRODUCTS):
        weight = view.weight(node)
        if weight is None or view.integers(weight) != "int4":
            continue
        shape = view.graph.constants[weight.input[0]].shape
        if node.op_type == "Conv":
            sides = (*shape[2:], *view.attribute(node, "strides", [1]))
            if shape[0] <= 32 or any(side != 1 for side in sides):
                yield node.name
        elif shape[0 if view.attribute(node, "transB", 0) else -1] <= 32:
            yield node.name


def no_clip_of_integers(view: View) -> Iterator[str]:
    """Nothing clips between QuantizeLinear and DequantizeLinear."""
    for node in view.of_kind("Clip"):
        source = view.producers.get(node.input[0])
        if source is not None and source.op_type == "QuantizeLinear":
            yield node.name


def no_cast_of_small_integers(view: View) -> Iterator[str]:
    """INT4 and INT8 are dequantized, not cast."""
    for node in view.of_kind("Cast"):
        constant = view.constant(node.input[0])
        if constant is not None and str(constant.dtype) in ("int4", "uint4", "int8"):
            yield node.name


def products_are_wide(least: int) -> Check:
    """Products of integers have so many inputs and outputs at least."""

    def check(view: View) -> Iterator[str]:
        for node in view.of_kind("MatMul", "Gemm"):
            weight = view.weight(node)
            if weight is not None and min(view.graph.constants[weight.input[0]].shape) < least:
                yield node.name

    return check


def sampling_has_its_old_word(view: View) -> Iterator[str]:
    """No GridSample of opset 20 or later, whose word for bilinear is another one."""
    return (node.name for node in view.of_kind("GridSample") if view.opset >= 20)


def no_sampling_chain(view: View) -> Iterator[str]:
    """No GridSample whose samples are weighed and summed."""
    for node in view.of_kind("GridSample"):
        weighed = [reader for reader in view.readers.get(node.output[0], []) if reader.op_type == "Mul"]
        sums = [after.op_type for reader in weighed for after in view.readers.get(reader.output[0], [])]
        if "ReduceSum" in sums:
            yield node.name


def sampling_is_linear_or_nearest(view: View) -> Iterator[str]:
    """GridSample of maps with two sides, linear or nearest."""
    for node in view.of_kind("GridSample"):
        word = view.attribute(node, "mode", "linear")
        if word not in ("linear", "bilinear", "nearest") or len(view.shapes.get(node.input[0], ())) != 4:
            yield node.name


def scatter_only_writes(view: View) -> Iterator[str]:
    """ScatterND adds nothing up."""
    return (node.name for node in view.of_kind("ScatterND") if view.attribute(node, "reduction", "none") != "none")


def few_sums_at_once(view: View) -> Iterator[str]:
    """ScatterElements that adds has no more indices along any axis than what it adds to has numbers."""
    for node in view.of_kind("ScatterElements"):
        data, index = (view.shape(name) for name in node.input[:2])
        if view.attribute(node, "reduction", "none") != "none" and any(map(int.__gt__, index, data)):
            yield node.name


def axes_are_constant(view: View) -> Iterator[str]:
    """Axes of sums are known when the engine is built."""
    for node in view.nodes:
        if node.op_type.startswith("Reduce") and len(node.input) > 1 and view.constant(node.input[1]) is None:
            yield node.name


def shapes_are_fixed(view: View) -> Iterator[str]:
    """Every tensor has a known shape."""
    for node in view.nodes:
        if any(name and name not in view.shapes for name in node.output):
            yield node.name


def axes_at_most(most: int) -> Check:
    """No tensor has more axes."""

    def check(view: View) -> Iterator[str]:
        for node in view.nodes:
            if any(len(view.shapes.get(name, ())) > most for name in (*node.input, *node.output)):
                yield node.name

    return check


def indices_are_positive(view: View) -> Iterator[str]:
    """Constant indices of Gather count from the front."""
    for node in view.of_kind("Gather"):
        index = view.constant(node.input[1])
        if index is not None and (index < 0).any():
            yield node.name


def biases_fit(view: View) -> Iterator[str]:
    """Steps of an int32 bias are those of its input times those of its weight."""
    for node in view.of_kind("Conv", "Gemm"):
        bias = view.producers.get(node.input[2]) if len(node.input) > 2 else None
        weight, source = view.weight(node), view.producers.get(node.input[0])
        if bias is None or bias.op_type != "DequantizeLinear" or weight is None or source is None:
            continue
        expected = view.graph.constants[source.input[1]] * view.graph.constants[weight.input[1]]
        if not np.allclose(view.graph.constants[bias.input[1]], expected, rtol=1e-2, atol=0):
            yield bias.name
