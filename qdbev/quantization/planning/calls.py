"""Which layers an example runs: what it does not call has no input to quantize, whatever a plan says.

Auxiliary branches, heads of training and layers whose weight the code reads by a function are layers of the model all
the same. A quantizer sits in a layer's call; an embedding table is quantized wherever it is read.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from qdbev.quantization.planning.policy import classify
from qdbev.quantization.planning.products import arguments_of


class WatchedCalls:
    """An example run that sees which layers are called, and whose parameters are read by anything else."""

    def __init__(self, model: nn.Module, run: Callable[[], object]) -> None:
        """Runs nothing yet.

        Args:
            model: A float model.
            run: Runs it once, as it runs in prediction.
        """
        self._run = run
        modules = dict(model.named_modules())
        inside = {f"{path}.out_proj" for path, module in modules.items() if isinstance(module, nn.MultiheadAttention)}
        kinds = {path: (module, classify(module)[0]) for path, module in modules.items() if path not in inside}
        self._layers = {path: module for path, (module, kind) in kinds.items() if kind != "float"}
        self._tables = {path for path, (_, kind) in kinds.items() if kind == "embedding"}
        self._called: set[str] = set()
        self._read: set[str] = set()

    def __call__(self) -> object:
        """Run the example."""
        running: list[str] = []
        handles = []
        for path, layer in self._layers.items():
            handles.append(layer.register_forward_pre_hook(partial(_starts, running, path)))
            handles.append(layer.register_forward_hook(partial(self._ends, running, path)))
        try:
            with _Reads(self._owners(), running=running, read=self._read):
                return self._run()
        finally:
            for handle in handles:
                handle.remove()

    def reasons(self) -> dict[str, str]:
        """Return the path of each layer that cannot be quantized after all -> why, as far as the runs have shown."""
        reasons = {}
        for path in self._layers:
            if path in self._tables and path in self._called | self._read:
                continue
            if path in self._read:
                reasons[path] = "prediction reads its parameters by a function, past the layer's call"
            elif path not in self._called:
                reasons[path] = "prediction does not run it"
        return reasons

    def _owners(self) -> dict[int, set[str]]:
        """Id of a parameter -> paths of the layers that hold it; an attention's projections are its own."""
        owners: dict[int, set[str]] = {}
        for path, layer in self._layers.items():
            for value in layer.parameters(recurse=isinstance(layer, nn.MultiheadAttention)):
                owners.setdefault(id(value), set()).add(path)
        return owners

    def _ends(self, running: list[str], path: str, module: nn.Module, args: Any, output: Any) -> None:
        running.pop()
        self._called.add(path)


class _Reads(TorchDispatchMode):
    """Notes the layers whose parameters are read while none of their holders runs."""

    def __init__(self, owners: dict[int, set[str]], *, running: list[str], read: set[str]) -> None:
        super().__init__()
        self.owners, self.running, self.read = owners, running, read

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in arguments_of(args, kwargs or {}):
            owners = self.owners.get(id(value)) if isinstance(value, Tensor) else None
            if owners and owners.isdisjoint(self.running):
                self.read |= owners
        return func(*args, **(kwargs or {}))


def _starts(running: list[str], path: str, module: nn.Module, args: Any) -> None:
    running.append(path)
