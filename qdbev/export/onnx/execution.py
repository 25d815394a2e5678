"""An exported graph run by ONNX Runtime on the CPU."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from qdbev.export.onnx.packages import onnx_package, runtime_package

if TYPE_CHECKING:
    import onnx

_ONLY_ERRORS = 3


class RuntimeSession:
    """A graph that is loaded.

    Attributes:
        optimised: The graph as ONNX Runtime rewrote it.
    """

    def __init__(
        self, model: onnx.ModelProto, *, threads: int = 1, taps: Sequence[str] = (), optimise: bool = True
    ) -> None:
        """Loads a model.

        Args:
            model: As exported.
            threads: Of one operator.
            taps: Tensors of bytes that come out besides the outputs.
            optimise: Let ONNX Runtime rewrite the graph, as it does if nothing is said.
        """
        runtime, package = runtime_package(), onnx_package()
        if taps:
            tapped = package.ModelProto()
            tapped.CopyFrom(model)
            kind = package.TensorProto.UINT8
            tapped.graph.output.extend(package.helper.make_tensor_value_info(name, kind, None) for name in taps)
            model = tapped
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, _ONLY_ERRORS
        if not optimise:
            options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        with tempfile.TemporaryDirectory() as folder:
            rewritten = Path(folder, "optimised.onnx")
            options.optimized_model_filepath = str(rewritten)
            self._session = runtime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
            self.optimised: Any = package.load(rewritten)
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs, and the taps, by name."""
        values = self._session.run(None, {name: tensor.numpy() for name, tensor in feeds.items()})
        return {name: torch.from_numpy(value) for name, value in zip(self._outputs, values, strict=True)}
