"""An exported detector timed beside what it is to beat: float and integers, torch and runtimes, in one run."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from pipelines.assembly.detector import build_detector, refuse_unable
from pipelines.assembly.job import Job
from pipelines.assembly.quantized import load_quantized
from pipelines.exporting.onnx import frame_of, target_of
from pipelines.lineage.kinds import GRAPH, ONNX
from pipelines.store.artifacts import Artifact
from profiles import Profile
from qdbev.detectors.frame_graph import FrameGraph, Tensors
from qdbev.export.onnx.execution import OpenVinoSession, OrtSession, Session
from qdbev.export.onnx.lowering import runtime_graph
from qdbev.export.onnx.neutral import neutral_graph
from qdbev.export.onnx.packages import onnx_package, openvino_package
from qdbev.export.onnx.profiled import Profiled, profiled
from qdbev.quantization import quantized_layers
from qdbev.reporting.tables.executed_latency import latencies_table, operators_table, parts_table
from qdbev.reporting.tables.table import Table

_ROUNDS, _FEWEST_ROUNDS = 10, 3
_LONG_ENOUGH_S = 60.0
FLOAT_BY_ORT = "float, ONNX Runtime"
Parts = Mapping[str, list[str]]
"""Part of a detector -> paths of its modules."""


@dataclass
class Contender:
    """One way to run the detector.

    Attributes:
        name: Bits, and who runs it.
        run: Runs one frame.
        layers: Layers whose products are integers, and all quantized ones; None where that is not asked.
        profile: Where ONNX Runtime spends its time.
    """

    name: str
    run: Callable[[], object]
    layers: tuple[int, int] | None = None
    profile: Profiled | None = None


def timed_export(job: Job, *, export: Artifact, device: str) -> list[Table]:
    """Time an export and its rivals on one frame that follows another; images are noise.

    Args:
        job: Its profile is that of the export.
        export: An ONNX export.
        device: What the processor is called, and how many threads it uses.

    Raises:
        ValueError: It is no ONNX export.
    """
    if export.manifest.kind != ONNX:
        raise ValueError(f"{export.path.name} is a {export.manifest.kind} artifact; --export times an onnx one")
    contenders = _contenders(job, export=export)
    seconds = measured_rounds([contender.run for contender in contenders], progress=job.progress)
    medians = [statistics.median(times) for times in seconds]
    base = next(median for each, median in zip(contenders, medians, strict=True) if each.name == FLOAT_BY_ORT)
    rows = [
        {
            "name": contender.name,
            "median_s": median,
            "low_s": min(times),
            "high_s": max(times),
            "times": base / median,
            "layers": None if contender.layers is None else "{} of {}".format(*contender.layers),
            "integer_share": None if contender.profile is None else contender.profile.integer_share,
        }
        for contender, times, median in zip(contenders, seconds, medians, strict=True)
    ]
    profiles = {each.name: each.profile for each in contenders if each.profile is not None}
    parts = {name: profile.parts for name, profile in profiles.items()}
    own = contenders[-1 if contenders[-1].profile is not None else -2]
    assert own.profile is not None
    return [
        latencies_table(rows, device=device, frames=len(seconds[0])),
        parts_table(parts),
        operators_table(own.profile.operators, name=own.name),
    ]


def measured_rounds(runs: list[Callable[[], object]], *, progress: bool = False) -> list[list[float]]:
    """Seconds of each, in rounds in which each runs once, so that what else the machine does hits all alike.

    After one round to warm up, ten are timed; fewer, but at least three, where that takes longer than a minute.
    """
    seconds: list[list[float]] = [[] for _ in runs]
    start = time.perf_counter()
    for place in tqdm(range(_ROUNDS + 1), desc="latency", unit="round", disable=not progress):
        for run, times in zip(runs, seconds, strict=True):
            before = time.perf_counter()
            run()
            if place:
                times.append(time.perf_counter() - before)
        if place >= _FEWEST_ROUNDS and time.perf_counter() - start > _LONG_ENOUGH_S:
            break
    return seconds


def _contenders(job: Job, *, export: Artifact) -> list[Contender]:
    profile, threads = job.profile, torch.get_num_threads()
    detector = build_detector(profile.model, rig=profile.data.rig)
    refuse_unable(detector, ability="export")
    frame = frame_of(detector, profile=profile)
    feeds = noise(frame, seed=profile.seed)
    ours = frame_of(_exported(job, export=export, profile=profile), profile=profile)
    label = profile.quantization.label
    other = (8, 8) if label != "W8A8" else (4, 6)
    by_rows = partial(neutral_graph, lists_rows=True)
    integers = partial(_integers_by_ort, feeds=feeds, parts=_module_paths(detector), threads=threads)
    return [
        Contender("float, torch", lambda: frame.run(feeds)),
        _by_ort(FLOAT_BY_ORT, by_rows(frame), feeds, parts=_module_paths(detector), threads=threads),
        integers(f"W{other[0]}A{other[1]}", by_rows(at_bits(ours, *other))),
        integers(label, by_rows(ours), sealed=export if target_of(export) == "ort" else None),
        *_by_openvino(label, neutral_graph(ours), feeds, threads=threads),
    ]


def _exported(job: Job, *, export: Artifact, profile: Profile) -> Any:
    return load_quantized(job.store.open(export.manifest.parents["model"]), profile=profile).detector


def noise(frame: FrameGraph, *, seed: int) -> Tensors:
    """Inputs of one frame that follows another, images and history of noise."""
    generator = torch.Generator().manual_seed(seed)
    outputs = {output: torch.randn(frame.inputs[name].shape, generator=generator) for output, name in _carried(frame)}
    image = torch.randn(frame.inputs["image"].shape, generator=generator)
    return {**frame.inputs, "image": image, **frame.carry(outputs)}


def _carried(frame: FrameGraph) -> list[tuple[str, str]]:
    return list(frame.carried.items())


def at_bits(frame: FrameGraph, weights: int, inputs: int) -> FrameGraph:
    """A copy whose layers have other bits over the same ranges: how long it takes, not how well it detects."""
    other = copy.deepcopy(frame)
    for layer in quantized_layers(other.detector).values():
        quantizers = [(weight.quantizer, weights) for weight in layer.quantized_weights()]
        for quantizer, bits in [*quantizers, *((quantizer, inputs) for quantizer in layer.input_quantizers())]:
            if quantizer.state == "on":
                scale, _ = quantizer.present_grid()
                quantizer.put_onto(scale * 2.0 ** (quantizer.bits - bits), bits=bits, unsigned=quantizer.unsigned)
    return other


def _integers_by_ort(
    label: str, neutral: Any, *, feeds: Tensors, parts: Parts, threads: int, sealed: Artifact | None = None
) -> Contender:
    lowered = runtime_graph(neutral)
    model = lowered.model if sealed is None else onnx_package().load(sealed.file(GRAPH))
    name = f"{label}, ONNX Runtime"
    return _by_ort(name, model, feeds, parts=parts, threads=threads, weights=lowered.weights)


def _by_ort(
    name: str,
    model: Any,
    feeds: Tensors,
    *,
    parts: Parts,
    threads: int,
    weights: Mapping[str, object] | None = None,
) -> Contender:
    session, seen = OrtSession(model, threads=threads), profiled(model, feeds, parts=parts, threads=threads)
    layers = None if weights is None else _in_integers(session, weights)
    return Contender(name, lambda: session.run(feeds), layers=layers, profile=seen)


def _by_openvino(label: str, neutral: Any, feeds: Tensors, *, threads: int) -> list[Contender]:
    """OpenVINO, where it is installed."""
    try:
        openvino_package()
    except ValueError:
        return []
    lowered = runtime_graph(neutral, target="openvino")
    session = OpenVinoSession(lowered.model, threads=threads)
    layers = _in_integers(session, lowered.weights)
    return [Contender(f"{label}, OpenVINO", lambda: session.run(feeds), layers=layers)]


def _in_integers(session: Session, weights: Mapping[str, object]) -> tuple[int, int]:
    fates = session.layers(weights)
    return sum(layer.fate == "integers" for layer in fates), len(fates)


def _module_paths(detector: nn.Module) -> Parts:
    parts: Any = detector.parts()  # type: ignore[operator]
    return {part: [paths] if isinstance(paths, str) else list(paths) for part, paths in parts.items()}
