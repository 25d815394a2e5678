"""What the bytes of a packed model are: by part of the detector and by kind, and how many lie in pointwise layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from qdbev.export.packed.state import PackedState
from qdbev.quantization import Plan, nearest_part

_KINDS = {"_packed": "integers", "_scale": "scales", ".scale": "scales", ".offset": "scales", "_offset": "scales"}
_KINDS |= {"_shape": "shapes", "_groups": "shapes", ".flags": "shapes", "_zero_point": "scales"}
KINDS = ("integers", "scales", "shapes", "rest")


@dataclass(frozen=True)
class Sizes:
    """Bytes of the tensors of a packed file; its header is not among them."""

    parts: dict[str, dict[str, int]]
    """Part of the detector -> kind (``integers``, ``scales``, ``shapes``, ``rest``) -> bytes, in the plan's order."""
    pointwise: int
    """Bytes of the integers of linear layers, attention's projections and 1x1 convolutions."""

    @property
    def integers(self) -> int:
        """Bytes of all packed integers."""
        return sum(kinds["integers"] for kinds in self.parts.values())

    @property
    def pointwise_share(self) -> float:
        """The share of the integers that lies in pointwise layers."""
        return self.pointwise / max(self.integers, 1)


def sizes_of(tensors: Mapping[str, int], *, shapes: Mapping[str, Sequence[int]], plan: Plan) -> Sizes:
    """Sort the tensors of a file.

    Args:
        tensors: Bytes by name.
        shapes: Shape of each packed weight by the weight's name.
        plan: Of the model.
    """
    parts = {part: dict.fromkeys(KINDS, 0) for part in plan.parts}
    pointwise_layers = tuple(f"{path}." for path in _pointwise(plan, shapes=shapes))
    pointwise = 0
    for name, size in tensors.items():
        kind = next((kind for ending, kind in _KINDS.items() if name.endswith(ending)), "rest")
        parts[nearest_part(plan, path=name)][kind] += size
        if kind == "integers" and name.startswith(pointwise_layers):
            pointwise += size
    return Sizes(parts, pointwise)


def sizes_of_state(packed: PackedState, *, plan: Plan) -> Sizes:
    """The same for what a packed file will hold."""
    tensors = {name: value.numel() * value.element_size() for name, value in packed.tensors.items()}
    shapes = {name: packed.tensors[f"{name}_shape"].tolist() for name in packed.weights}
    return sizes_of(tensors, shapes=shapes, plan=plan)


def _pointwise(plan: Plan, *, shapes: Mapping[str, Sequence[int]]) -> Iterable[str]:
    for site in plan.quantized:
        kernel = list(shapes.get(f"{site.path}.weight", ()))[2:]
        if site.kind in ("linear", "attention") or (site.kind == "conv2d" and kernel == [1, 1]):
            yield site.path
