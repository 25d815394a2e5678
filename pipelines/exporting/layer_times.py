"""What each layer of a detector takes in ONNX Runtime at the widths that ONNX has a type for: a table for bit plans."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from pipelines.assembly.job import Job
from pipelines.assembly.quantized import load_quantized
from pipelines.exporting.onnx import frame_of
from pipelines.exporting.timing import at_bits, noise
from pipelines.store.artifacts import Artifact
from qdbev.export.onnx.lowering import runtime_graph
from qdbev.export.onnx.neutral import neutral_graph
from qdbev.export.onnx.profiled import BETWEEN, profiled
from qdbev.quantization import quantized_layers

WIDTHS = (4, 8)
_INPUTS = (2, 3, 4, 5, 6, 7, 8)


class LayerTime(NamedTuple):
    """A row of a table of latencies."""

    path: str
    weight_bits: int
    activation_bits: int
    milliseconds: float


def layer_times(job: Job, *, model: Artifact) -> Iterator[LayerTime]:
    """Rows of every layer, and one of everything else, by ONNX Runtime's own profile.

    Inputs of fewer bits are bytes that a Clip narrows, so that they take the time of eight. What a frame leaves out,
    such as classes of the decoder layers before the last, takes none.

    Args:
        job: Its profile is that of the model.
        model: A quantized detector that can be exported.
    """
    frame = frame_of(load_quantized(model, profile=job.profile).detector, profile=job.profile)
    feeds, threads = noise(frame, seed=job.profile.seed), torch.get_num_threads()
    layers = {
        path: [path] for path, layer in quantized_layers(frame.detector).items() if layer.site.kind != "embedding"
    }
    for bits in WIDTHS:
        lowered = runtime_graph(neutral_graph(at_bits(frame, bits, 8), lists_rows=True))
        seconds = profiled(lowered.model, feeds, parts=layers, threads=threads).parts
        rest = seconds.pop(BETWEEN)
        for path, value in seconds.items():
            yield from (LayerTime(path, bits, inputs, 1e3 * value) for inputs in _INPUTS)
    yield LayerTime("everything else", 8, 8, 1e3 * rest)
