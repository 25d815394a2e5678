"""What no rule of the report counts: bytes of the packed tensors, and measured latencies."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pipelines.assembly.detector import Detector
from pipelines.assembly.quantized import with_quantizers
from pipelines.bit_planning.latency_table import LatencyTable, Timed, spelled
from profiles import Profile
from qdbev.quantization import Folding, packed_bytes, packed_size_bytes, quantized_layers, size_bytes


@dataclass(frozen=True)
class Packed:
    """What the packed file of a model takes."""

    counts: Mapping[str, Sequence[int]]
    """Elements of each packed weight, by the path of its layer."""
    rest: int
    """Bytes of everything else: scales, shapes, and what is not quantized in float16."""
    whole: int
    """Bytes of the float model's tensors."""

    def of_layer(self, path: str, *, bits: int) -> int:
        """Bytes of a layer's packed weights."""
        return sum(packed_bytes(count, bits=bits) for count in self.counts[path])


def packed_costs(folded: Detector, folding: Folding, *, profile: Profile) -> Packed:
    """Count the bytes of a model's packed tensors; the float detector is left as it is.

    Args:
        folded: A float detector without batch norms.
        folding: How it was folded.
        profile: Its quantization section says what is quantized.
    """
    bits = profile.bit_plan.candidates[0]
    section = profile.quantization.model_copy(update={"weight_bits": bits})
    here = profile.model_copy(update={"quantization": section})
    detector = with_quantizers(copy.deepcopy(folded), folding, profile=here).detector
    counts = {
        path: [weight.value.numel() for weight in layer.quantized_weights()]
        for path, layer in quantized_layers(detector).items()
    }
    layers = sum(packed_bytes(count, bits=bits) for numbers in counts.values() for count in numbers)
    return Packed(counts, packed_size_bytes(detector) - layers, size_bytes(folded.state_dict()))


@dataclass(frozen=True)
class Timing:
    """Nanoseconds of the layers at their bits, of what no choice changes, and of all at the widest bits."""

    layers: Mapping[Timed, int]
    rest: int
    whole: int


def timed_costs(table: LatencyTable, *, pairs: Mapping[str, Sequence[tuple[int, int]]]) -> Timing:
    """Sort a table by what it times.

    Raises:
        ValueError: An option of a layer is not in it, or a layer of another model is.
    """
    widest = max((timed.bits for timed in table), key=lambda bits: (bits[0] * bits[1], bits[0]))
    wanted = [Timed(path, *bits) for path, of_layer in pairs.items() for bits in dict.fromkeys([*of_layer, widest])]
    if missing := [timed for timed in wanted if timed not in table]:
        paths = dict.fromkeys(timed.path for timed in missing)
        listed = [f"{path} at {_bits_of(missing, path)}" for path in paths]
        raise ValueError(
            f"the latency table lacks {len(missing)} of {len(wanted)} rows that this plan needs: {'; '.join(listed)}"
        )
    others = {timed: time for timed, time in table.items() if timed.path not in pairs}
    if strangers := [timed for timed in others if timed.bits != widest]:
        raise ValueError(
            f"the latency table times {strangers[0].path} at {spelled(strangers[0].bits)}, which is no quantized layer "
            f"here ({len(strangers)} such rows): it was measured for another model; what no choice changes stands in "
            f"it at {spelled(widest)} alone"
        )
    rest = sum(others.values())
    return Timing(table, rest, rest + sum(table[Timed(path, *widest)] for path in pairs))


def _bits_of(missing: Iterable[Timed], path: str) -> str:
    return ", ".join(spelled(timed.bits) for timed in missing if timed.path == path)
