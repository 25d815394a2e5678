"""The neutral graph: torch's trace of a frame, with one node for each quantizer, which no target has decided on yet.

* ``qdbev::Grid``: a tensor onto its grid. Attributes ``name``, ``low``, ``high``; inputs x, scale, offset.
* ``qdbev::Stored``: a weight as integers. Attributes ``name``, ``bits``, ``axis`` (-1: one scale); inputs integers
  (int8), scale.

What these become is said in ``qdbev.export.onnx.lowering``.
"""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.onnx import symbolic_helper, symbolic_opset9, symbolic_opset13
from torch.onnx.symbolic_helper import parse_args

from qdbev.detectors.frame_graph import TensorGraph
from qdbev.export.onnx.gate.decisions import refuse_decisions
from qdbev.export.onnx.packages import onnx_package
from qdbev.export.onnx.shapes import fold_constants
from qdbev.ops import exporting_rows, exports_all_pairs
from qdbev.quantization import Quantizer, dequantize, quantized_layers
from qdbev.quantization.grid.fake_quantize import limits_of

if TYPE_CHECKING:
    import onnx

OPSET = 20
"""Torch writes this one; ``lowering`` raises it to 21, which knows 4-bit integers."""
DOMAIN = "qdbev"

_LIBRARY = torch.library.Library("qdbev_graph", "DEF")
_LIBRARY.define("grid(Tensor x, Tensor scale, Tensor offset, str name, int low, int high) -> Tensor")
_LIBRARY.define("stored(Tensor integers, Tensor scale, str name, int bits, int axis) -> Tensor")


def neutral_graph(frame: TensorGraph, *, lists_rows: bool = False) -> onnx.ModelProto:
    """Trace a frame whose quantizers that are on become nodes, all that follows from shapes folded.

    Args:
        frame: The detector.
        lists_rows: Sampling looks where somebody is seen, in rows as many as a frame needs, for runtimes that take
            shapes which numbers decide; otherwise all shapes are fixed.

    Raises:
        ValueError: ONNX is not installed, or has no operator for something that the detector does.
    """
    onnx: Any = onnx_package()
    rows = exporting_rows() if lists_rows else nullcontext()
    frame.eval()
    _register()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), _quantizers_as_nodes(frame), rows:
        written = Path(folder, "neutral.onnx")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of shapes that are fixed, which is what is wanted
            if frame.foreign:
                refuse_decisions(lambda: frame.run(frame.inputs))
            _write(frame, written)
        model = onnx.load(written)
    _name_as_the_detector(model)
    _refuse_strangers(model)
    if frame.foreign:
        _refuse_repeated_layers(model)
        _keep_outputs_apart(model)
    return fold_constants(model)


def _write(frame: TensorGraph, path: Path) -> None:
    try:
        torch.onnx.export(
            frame,
            tuple(frame.inputs.values()),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=list(frame.inputs),
            output_names=list(frame.outputs),
        )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"the detector cannot be written as ONNX: {reason}") from error


def _refuse_strangers(model: onnx.ModelProto) -> None:
    """Refuse operators of other libraries, which no target knows."""
    for node in model.graph.node:
        if node.domain not in ("", DOMAIN):
            raise ValueError(f"{node.name} is an operator {node.op_type} of {node.domain}, which no target runs")


def _refuse_repeated_layers(model: onnx.ModelProto) -> None:
    """Refuse a layer that sees two tensors: the gate looks at the input of a layer once."""
    helper, seen = onnx_package().helper, dict[str, str]()
    for node in model.graph.node:
        if (node.domain, node.op_type) != (DOMAIN, "Grid"):
            continue
        name = helper.get_node_attr_value(node, "name").decode()
        if seen.setdefault(name, node.input[0]) != node.input[0]:
            raise ValueError(
                f"{name.rpartition('.')[0]} runs more than once on different tensors, and the gate cannot see that"
            )


def _keep_outputs_apart(model: onnx.ModelProto) -> None:
    """Let a node read each output, so that who rewrites a layer sees that its output is wanted as it is.

    ``Graph.join_outputs`` takes these nodes off again.
    """
    helper, graph = onnx_package().helper, model.graph
    inside = {output.name: f"{output.name}/inside" for output in graph.output}
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [inside.get(name, name) for name in names]
    graph.node.extend(helper.make_node("Identity", [name], [output], name=output) for output, name in inside.items())


def _name_as_the_detector(model: onnx.ModelProto) -> None:
    """Take the name of the attribute that a frame holds its detector by off the names of parameters."""
    for tensor in model.graph.initializer:
        tensor.name = tensor.name.removeprefix("detector.")
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [name.removeprefix("detector.") for name in names]


@contextmanager
def _quantizers_as_nodes(model: nn.Module) -> Iterator[None]:
    """Inside, a quantizer that is on is one operation of ours, for torch to write as one node."""
    with ExitStack() as stack:
        for layer in quantized_layers(model).values():
            for weight in layer.quantized_weights():
                if weight.quantizer.state == "on":
                    name = f"{layer.site.path}.{weight.name}"
                    stack.enter_context(_forward(weight.quantizer, _stored(weight.quantizer, weight.rows, name=name)))
            for quantizer in layer.input_quantizers():
                if quantizer.state == "on":
                    stack.enter_context(_forward(quantizer, _grid(quantizer)))
        yield


@contextmanager
def _forward(quantizer: Quantizer, forward: Callable[[Tensor], Tensor]) -> Iterator[None]:
    quantizer.forward = forward  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del quantizer.forward


def _grid(quantizer: Quantizer) -> Callable[[Tensor], Tensor]:
    low, high = limits_of(quantizer.grid_bits, narrow_range=quantizer.narrow_range, unsigned=quantizer.unsigned)
    scale, offset = quantizer.present_grid()
    beta = torch.zeros(()) if offset is None else offset

    def forward(x: Tensor) -> Tensor:
        on_grid: Tensor = torch.ops.qdbev_graph.grid(x, scale, beta, quantizer.name, low, high)
        return on_grid

    return forward


def _stored(quantizer: Quantizer, value: Tensor, *, name: str) -> Callable[[Tensor], Tensor]:
    integers, (scale, _) = quantizer.integers(value), quantizer.present_grid()
    axis = -1 if quantizer.axis is None else quantizer.axis

    def forward(_weight: Tensor) -> Tensor:
        values: Tensor = torch.ops.qdbev_graph.stored(integers, scale, name, quantizer.bits, axis)
        return values

    return forward


@torch.library.impl(_LIBRARY, "grid", "CPU")
def _grid_value(x: Tensor, scale: Tensor, offset: Tensor, name: str, low: int, high: int) -> Tensor:
    return ((x - offset) / scale).round_().clamp_(low, high) * scale + offset


@torch.library.impl(_LIBRARY, "stored", "CPU")
def _stored_value(integers: Tensor, scale: Tensor, name: str, bits: int, axis: int) -> Tensor:
    return dequantize(integers, scale=scale, axis=None if axis < 0 else axis)


def _register() -> None:
    """How torch's exporter writes our operations, and those of torch's own that it cannot write well.

    It has no way for four; for three more it computes shapes that are known, in twenty nodes each.
    """
    symbols: dict[str, Callable[..., Any]] = {
        "qdbev_graph::grid": _grid_node,
        "qdbev_graph::stored": _stored_node,
        "aten::hypot": _hypot_node,
        "aten::atan2": _atan2_node,
        "aten::nan_to_num": _finite_node,
        "aten::index_add": _sums_node,
        "aten::flatten": _flatten_node,
        "aten::unflatten": _unflatten_node,
        "aten::expand": _expand_node,
    }
    for name, symbol in symbols.items():
        torch.onnx.register_custom_op_symbolic(name, symbol, OPSET)


@parse_args("v", "v", "v", "s", "i", "i")
def _grid_node(g: Any, x: Any, scale: Any, offset: Any, name: str, low: int, high: int) -> Any:
    return g.op(f"{DOMAIN}::Grid", x, scale, offset, name_s=name, low_i=low, high_i=high).setType(x.type())


@parse_args("v", "v", "s", "i", "i")
def _stored_node(g: Any, integers: Any, scale: Any, name: str, bits: int, axis: int) -> Any:
    node = g.op(f"{DOMAIN}::Stored", integers, scale, name_s=name, bits_i=bits, axis_i=axis)
    return node.setType(integers.type().with_dtype(torch.float32))


def _atan2_node(g: Any, y: Any, x: Any) -> Any:
    """The angle of (x, y), zero at the origin; torch's own symbol divides by zero there."""
    zero, tiny, pi = (g.op("Constant", value_t=torch.tensor(value)) for value in (0.0, 1e-30, math.pi))
    right = g.op("Where", g.op("Equal", x, zero), tiny, x)
    turned = g.op("Where", g.op("Less", y, zero), g.op("Neg", pi), pi)
    angle = g.op("Atan", g.op("Div", y, right))
    return g.op("Where", g.op("Less", x, zero), g.op("Add", angle, turned), angle)


@parse_args("v", "f", "f", "f")
def _finite_node(g: Any, x: Any, nan: float | None, largest: float | None, least: float | None) -> Any:
    """Limits are those of float32; torch's own symbol looks for infinities in float64, which devices do not have."""
    assert (nan, largest, least) == (None, None, None)
    zero, low, high = (
        g.op("Constant", value_t=torch.tensor(value))
        for value in (0.0, torch.finfo(torch.float32).min, torch.finfo(torch.float32).max)
    )
    return g.op("Clip", g.op("Where", g.op("IsNaN", x), zero, x), low, high)


@parse_args("v", "i", "v", "v", "f")
def _sums_node(g: Any, into: Any, axis: int, index: Any, rows: Any, alpha: float) -> Any:
    """Rows added where an index says, also where two say the same: torch's own symbol forgets one of them."""
    assert (axis, alpha) == (0, 1.0)
    last = g.op("Constant", value_t=torch.tensor([-1]))
    return g.op("ScatterND", into, g.op("Unsqueeze", index, last), rows, reduction_s="add").setType(into.type())


def _hypot_node(g: Any, x: Any, y: Any) -> Any:
    return g.op("Sqrt", g.op("Add", g.op("Mul", x, x), g.op("Mul", y, y)))


@parse_args("v", "i", "i")
def _flatten_node(g: Any, x: Any, first: int, last: int) -> Any:
    sides = _sides(x)
    last += len(sides) if last < 0 else 0
    in_two = (first, last) in ((1, len(sides) - 1), (0, len(sides) - 2))  # which ONNX has an operator for
    shape = None if len(sides) < 2 or in_two else _reshaped(sides, first, last + 1, between=[-1])
    return symbolic_opset9.flatten(g, x, first, last) if shape is None else _reshape(g, x, shape)


def _unflatten_node(g: Any, x: Any, axis: Any, between: Any) -> Any:
    sides, wanted = _sides(x), _known(between)
    place = symbolic_helper._get_const(axis, "i", "dim")
    first = place % len(sides) if sides else 0
    shape = _reshaped(sides, first, first + 1, between=wanted) if sides and wanted else None
    return symbolic_opset13.unflatten(g, x, axis, between) if shape is None else _reshape(g, x, shape)


def _expand_node(g: Any, x: Any, size: Any, implicit: Any) -> Any:
    wanted = _known(size)
    if wanted is None:
        return symbolic_opset9.expand(g, x, size, implicit)
    return g.op("Expand", x, g.op("Constant", value_t=torch.tensor([1 if side == -1 else side for side in wanted])))


def _sides(x: Any) -> list[int | None]:
    """Sides that all frames have; of rows that are listed, types of a trace say the number that its one frame has."""
    sides: list[int | None] = x.type().varyingSizes() or []
    return sides if exports_all_pairs() else [None] * len(sides)


def _known(sides: Any) -> list[int] | None:
    """Numbers of a list in a trace; None where one of them is computed."""
    value = symbolic_helper._maybe_get_const(sides, "is")
    return None if isinstance(value, torch._C.Value) else list(value)


def _reshaped(sides: Sequence[int | None], first: int, end: int, *, between: Sequence[int]) -> list[int] | None:
    """Sides with others in the place of some; zero copies one that a frame decides, None where that cannot be said."""
    if None in sides[end:]:
        return None
    if None in sides[:first] and -1 not in between:
        between = [-1, *between[1:]]  # torch cannot tell the shape of a copy where all others are numbers
    return [side or 0 for side in (*sides[:first], *between, *sides[end:])]


def _reshape(g: Any, x: Any, shape: list[int]) -> Any:
    return g.op("Reshape", x, g.op("Constant", value_t=torch.tensor(shape)), allowzero_i=0)
