"""What is exported: a calibrated nano, and neutral graphs that tests share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest


@pytest.fixture(scope="module")
def model(call: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """The artifact as ``calibrate`` says it."""
    artifact: dict[str, Any] = call("calibrate")["artifact"]
    return artifact


@pytest.fixture(scope="module", autouse=True)
def traced_once() -> Iterator[None]:
    """A detector of the same numbers on the same grids gives the same neutral graph: each is traced once a file."""
    pytest.importorskip("onnx")
    from pipelines.exporting import layer_times, onnx, timing

    trace, known = onnx.neutral_graph, dict[str, Any]()

    def traced(frame: Any, *, lists_rows: bool = False) -> Any:
        key = f"{_content(frame)} {lists_rows}"
        if key not in known:
            known[key] = trace(frame, lists_rows=lists_rows)
        copy = type(known[key])()
        copy.CopyFrom(known[key])  # whoever lowers a graph changes it
        return copy

    with pytest.MonkeyPatch.context() as patch:
        for module in (layer_times, onnx, timing):
            patch.setattr(module, "neutral_graph", traced)
        yield


def _content(frame: Any) -> str:
    from qdbev.quantization import quantized_layers

    layers = quantized_layers(frame).values()
    quantizers = [quantizer for layer in layers for quantizer in layer.input_quantizers()]
    quantizers += [weight.quantizer for layer in layers for weight in layer.quantized_weights()]
    grids = [
        (each.name, each.state, each.bits, each.grid_bits, each.narrow_range, each.unsigned) for each in quantizers
    ]
    digest = hashlib.sha256(repr((type(frame), grids)).encode())
    for name, tensor in (*frame.state_dict().items(), *frame.inputs.items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
