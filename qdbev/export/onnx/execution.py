"""Exported graphs run on the CPU: by ONNX Runtime, and by OpenVINO; both say what they made of each layer."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from qdbev.export.onnx.gate.node_table import (
    LayerFate,
    foreign_quantizers,
    foreign_quantizers_of_openvino,
    layer_fates,
    layer_fates_of_openvino,
)
from qdbev.export.onnx.packages import onnx_package, openvino_core, runtime_package

if TYPE_CHECKING:
    import onnx

_ONLY_ERRORS = 3


class Session(Protocol):
    """A graph that is loaded by some runtime."""

    def __init__(self, model: onnx.ModelProto, *, threads: int = 1, taps: Sequence[str] = ()) -> None:
        """Loads a model.

        Args:
            model: As exported.
            threads: Of one operator.
            taps: Tensors of bytes that come out besides the outputs.
        """

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs, and the taps, by name."""

    def layers(self, weights: Iterable[str]) -> list[LayerFate]:
        """What the runtime made of each weight of integers."""

    def foreign(self, weights: Iterable[str]) -> list[str]:
        """What it multiplies in integers though no weight of these is in it."""


class OrtSession:
    """ONNX Runtime.

    Attributes:
        optimised: The graph as it was rewritten.
    """

    def __init__(
        self, model: onnx.ModelProto, *, threads: int = 1, taps: Sequence[str] = (), optimise: bool = True
    ) -> None:
        """See ``Session``; ``optimise`` lets it rewrite the graph, as it does if nothing is said."""
        runtime, package = runtime_package(), onnx_package()
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, _ONLY_ERRORS
        if not optimise:
            options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        with tempfile.TemporaryDirectory() as folder:
            rewritten = Path(folder, "optimised.onnx")
            options.optimized_model_filepath = str(rewritten)
            content = with_taps(model, taps).SerializeToString()
            self._session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            self.optimised: Any = package.load(rewritten)
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See ``Session``."""
        values = self._session.run(None, {name: tensor.numpy() for name, tensor in feeds.items()})
        return {name: torch.from_numpy(value) for name, value in zip(self._outputs, values, strict=True)}

    def layers(self, weights: Iterable[str]) -> list[LayerFate]:
        """See ``Session``."""
        return layer_fates(self.optimised, weights=weights)

    def foreign(self, weights: Iterable[str]) -> list[str]:
        """See ``Session``."""
        return foreign_quantizers(self.optimised, weights=weights)


class OpenVinoSession:
    """OpenVINO's CPU plugin, floats in 32 bits."""

    def __init__(self, model: onnx.ModelProto, *, threads: int = 1, taps: Sequence[str] = ()) -> None:
        """See ``Session``."""
        core = openvino_core()
        self._model = with_taps(model, taps)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.onnx")
            path.write_bytes(self._model.SerializeToString())
            settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
            self._compiled: Any = core.compile_model(core.read_model(path), "CPU", settings)
        self._outputs = [output.name for output in self._model.graph.output]

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See ``Session``."""
        values = self._compiled({name: tensor.numpy() for name, tensor in feeds.items()})
        return {name: torch.from_numpy(values[name].copy()) for name in self._outputs}

    def layers(self, weights: Iterable[str]) -> list[LayerFate]:
        """See ``Session``."""
        return layer_fates_of_openvino(self._compiled.get_runtime_model(), exported=self._model, weights=weights)

    def foreign(self, weights: Iterable[str]) -> list[str]:
        """See ``Session``."""
        return foreign_quantizers_of_openvino(self._compiled.get_runtime_model(), exported=self._model, weights=weights)


def with_taps(model: onnx.ModelProto, taps: Sequence[str]) -> onnx.ModelProto:
    """The model, which gives some tensors of bytes besides its outputs."""
    package = onnx_package()
    tapped: onnx.ModelProto = package.ModelProto()
    tapped.CopyFrom(model)
    signed = {tensor.name for tensor in model.graph.initializer if tensor.data_type == package.TensorProto.INT8}
    of_bytes = {
        node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear" and node.input[2] in signed
    }
    for name in taps:
        kind = package.TensorProto.INT8 if name in of_bytes else package.TensorProto.UINT8
        tapped.graph.output.append(package.helper.make_tensor_value_info(name, kind, None))
    return tapped
