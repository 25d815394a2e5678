"""Where ONNX Runtime spends its time: seconds of one frame by part and by operator, from its own profile."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from qdbev.export.onnx.gate.node_table import INTEGER_OPERATORS
from qdbev.export.onnx.packages import onnx_package, runtime_package

if TYPE_CHECKING:
    import onnx

BETWEEN = "between parts"
_KERNEL = "_kernel_time"
_FRAMES = 5


@dataclass(frozen=True)
class Profiled:
    """Seconds of one frame.

    Attributes:
        parts: By part, in the detector's order; what belongs to none is ``between parts``.
        operators: By kind of operator, the dearest first.
    """

    parts: dict[str, float]
    operators: dict[str, float]

    @property
    def integer_share(self) -> float:
        """Share of the time that products of integers take."""
        whole = sum(self.operators.values())
        return sum(self.operators.get(name, 0.0) for name in INTEGER_OPERATORS) / whole if whole else 0.0


def profiled(
    model: onnx.ModelProto, feeds: Mapping[str, Tensor], *, parts: Mapping[str, Sequence[str]], threads: int
) -> Profiled:
    """Run some frames under the runtime's own profile, which slows small operators a little.

    Args:
        model: As exported.
        feeds: Inputs of one frame.
        parts: Part of the detector -> paths of its modules.
        threads: Of one operator.
    """
    with tempfile.TemporaryDirectory() as folder:
        optimised, events = _events(model, feeds, folder=Path(folder), threads=threads)
    owners = {node.name: _owner(node, parts) for node in optimised.graph.node}
    by_part: Counter[str] = Counter(dict.fromkeys([*parts, BETWEEN], 0))
    by_operator: Counter[str] = Counter()
    for name, kind, microseconds in events:
        by_part[owners.get(name, BETWEEN)] += microseconds
        by_operator[kind] += microseconds
    share = 1e-6 / _FRAMES
    operators = {name: value * share for name, value in by_operator.most_common()}
    return Profiled({name: value * share for name, value in by_part.items()}, operators)


def _events(
    model: onnx.ModelProto, feeds: Mapping[str, Tensor], *, folder: Path, threads: int
) -> tuple[Any, list[tuple[str, str, int]]]:
    """The rewritten graph; name of a node, kind, and microseconds of each time that one ran, warm."""
    runtime = runtime_package()
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level, options.enable_profiling = threads, 3, True
    options.profile_file_prefix = str(folder / "profile")
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    arrays = {name: tensor.numpy() for name, tensor in feeds.items()}
    for _ in range(_FRAMES + 1):
        session.run(None, arrays)
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    runs = sorted(event["ts"] for event in events if event["name"] == "model_run")
    warm = [event for event in events if event["ts"] >= runs[1] and event["name"].endswith(_KERNEL)]
    optimised = onnx_package().load(folder / "optimised.onnx")
    return optimised, [
        (event["name"].removesuffix(_KERNEL), event["args"]["op_name"], int(event["dur"])) for event in warm
    ]


def _owner(node: onnx.NodeProto, parts: Mapping[str, Sequence[str]]) -> str:
    """The part of a node, by its own name or by that of something it reads or gives."""
    names = [node.name, *node.output, *node.input]
    return next((part for name in names for part in _parts_named(name, parts)), BETWEEN)


def _parts_named(name: str, parts: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Parts whose path, or the last word of it, a name of a node or a parameter begins with."""
    for part, paths in parts.items():
        for path in paths:
            word = path.rpartition(".")[2]
            if name.startswith((f"{path}.", f"/{word}/", f"/{word}.")) or name == path:
                yield part
