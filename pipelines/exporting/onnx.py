"""The ONNX export of a quantized detector: sealed once a runtime ran it and the gate found it equal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from pipelines.assembly.detector import Detector, build_detector, inputs_on, kind_of
from pipelines.assembly.job import Job
from pipelines.assembly.quantized import Quantized, load_quantized
from pipelines.assembly.samples import Split, sensors, streaming_dataset
from pipelines.assembly.scene import scene_of
from pipelines.assembly.weights import package_versions
from pipelines.exporting.image_branch import HOLDS, IMAGE_BRANCH, branch_metadata, branch_on
from pipelines.exporting.second_count import second_count
from pipelines.exporting.ways import WAYS
from pipelines.lineage.keys import export_key
from pipelines.lineage.kinds import EVALUATION, GATE, GRAPH, ONNX, QUANTIZED
from pipelines.store.artifacts import Artifact, Store
from pipelines.store.integrity import UnusableInput, fetched
from pipelines.store.making import Content, Made, made
from pipelines.store.sealing import explained_writing
from profiles import Profile
from profiles.wording import counted
from qdbev.data.queues.batches import Batch, streaming_batches
from qdbev.detectors.configured import ConfiguredDetector, ImageBranch
from qdbev.detectors.frame_graph import Frame, FrameGraph, TensorGraph, Tensors
from qdbev.export.onnx.gate.check import GateReport, check
from qdbev.export.onnx.gate.grouped_taps import GroupedTaps
from qdbev.export.onnx.lowering import Lowered
from qdbev.export.onnx.metadata import describe_ports, write_metadata
from qdbev.export.onnx.neutral import neutral_graph
from qdbev.export.onnx.packages import onnx_package
from qdbev.export.onnx.stream import StreamedGraph
from qdbev.export.targets.legal import put_onto_legal_bits
from qdbev.export.targets.structure import breaches

FORMAT_VERSION = 2
GATE_FRAMES = 3
_FAILED = "_gates"


class GateFailed(UnusableInput):
    """The exported graph does not compute what the detector does; only the gate's report is left."""


def onnx_export(job: Job, *, model: Artifact, target: str, strip_metadata: bool = False) -> Made:
    """The sealed ONNX export of a model artifact, made where it is missing: the detector, or its image branch alone.

    Args:
        job: Its profile is the one that the model was made with; the gate runs frames of its train split.
        model: A quantized detector.
        target: Who runs it.
        strip_metadata: Say nothing in ``metadata_props``.

    Raises:
        ValueError: The artifact holds no quantized detector, or one that cannot be a graph; a package is missing.
        GateFailed: The graph does not compute what the detector does.
    """
    refuse_unexportable(model, profile=job.profile, target=target)
    scored = _evaluation_of(model, store=job.store)
    stated = None if scored is None or strip_metadata else scored.digest
    settings = {"format_version": FORMAT_VERSION, "target": target, "stripped": strip_metadata, "score": stated}
    if build_detector(job.profile.model, rig=job.profile.data.rig).cannot("export"):
        settings[HOLDS] = IMAGE_BRANCH
    key = export_key(ONNX, model=model.digest, settings=settings)
    make = partial(
        _export, job, model=model, target=target, scored=None if strip_metadata else scored, settings=settings
    )
    return made(job, ONNX, key=key, make=make, known="exported before; --force does it again")


def refuse_unexportable(model: Artifact, *, profile: Profile, target: str) -> None:
    """Refuse what cannot be exported, before anything is loaded.

    Raises:
        ValueError: Saying what it is.
    """
    if model.manifest.kind not in QUANTIZED:
        raise ValueError(
            f"{model.path.name} is a {model.manifest.kind} artifact; only a quantized detector can be exported: "
            f"{', '.join(QUANTIZED)}"
        )
    if target not in WAYS:
        raise ValueError(f"target is {target!r}, expected one of {', '.join(WAYS)}")
    if not sensors(profile.model)["use_camera"]:
        raise ValueError(f"{profile.model.name} sees no images, so it has no image branch to be exported")
    onnx_package()
    WAYS[target].imported()


def executed(model: Artifact, *, profile: Profile, runtime: str, threads: int) -> StreamedGraph:
    """An export as a detector that a runtime runs."""
    package = onnx_package()
    own = WAYS[target_of(model)]
    way = own if runtime == "ort" and own.session is not WAYS["openvino"].session else WAYS[runtime]
    session = way.session(package.load(model.file(GRAPH)), threads=threads)
    detector = build_detector(profile.model, rig=profile.data.rig)
    return StreamedGraph(frame_of(detector, profile=profile), session=session)


def runtime_of(model: Artifact) -> str:
    """The runtime that an export passed the gate with."""
    return WAYS[target_of(model)].runtime


def target_of(model: Artifact) -> str:
    """Who an export was made for."""
    return str(model.manifest.data["target"])


def frame_of(detector: Detector, *, profile: Profile) -> FrameGraph:
    """A detector as a graph, for images of the profile's size."""
    return detector.frame_graph(scene_of(profile))


def _export(job: Job, *, model: Artifact, target: str, scored: Artifact | None, settings: Mapping[str, Any]) -> Content:
    profile = job.profile
    quantized = load_quantized(model, profile=profile)
    if WAYS[target].rules:
        put_onto_legal_bits(quantized.detector, target=target)
    frame, sequence = _subject(quantized.detector, split=_gate_split(job), profile=profile)
    lowered = WAYS[target].lower(neutral_graph(frame, lists_rows=WAYS[target].lists_rows))
    describe_ports(lowered.model, meanings=frame.meanings)
    if not settings["stripped"]:
        write_metadata(lowered.model, _metadata(frame, profile=profile, model=model, scored=scored, target=target))
    _check(lowered.model, target=target)
    report = _gate(frame, lowered, target=target, sequence=sequence)
    report.breaches = [str(breach) for breach in breaches(lowered.model, rules=WAYS[target].rules)]
    if WAYS[target].counts:
        _count(report, lowered, frame=frame, quantized=quantized)
    if failure := report.failure():
        left = _leave(report, store=job.store, name=f"{model.path.name}-{target}")
        raise GateFailed(f"{model.path.name} is not exported: {failure}; the gate's report is {left}")

    def write(folder: Path) -> None:
        (folder / GRAPH).write_bytes(lowered.model.SerializeToString())
        (folder / GATE).write_text(_text(report), encoding="utf-8")

    return Content(
        write,
        parents={"model": model.digest},
        data=settings,
        metrics={"gate": _summary(report)},
        packages=package_versions() | {name: version(name) for name in ("onnx", WAYS[target].package)},
        message=f"run for {counted(report.frames, 'frame')}: "
        f"{counted(len(report.taps), 'tap')} agree with the detector{_alone(frame)}",
    )


def _check(model: Any, *, target: str) -> None:
    checker = onnx_package().checker
    try:
        checker.check_model(model, full_check=True)
    except checker.ValidationError as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"there is no graph of this detector for {target}: {reason}") from error


def _alone(frame: TensorGraph) -> str:
    """What of a detector is no part of its graph, to be said; nothing where all of it is."""
    if not isinstance(frame, ImageBranch):
        return ""
    left = f", not {', '.join(frame.left_out)}" if frame.left_out else ""
    return f"; it is the image branch alone, {' and '.join(frame.paths)}{left}: maps of features come out, no boxes"


def _subject(detector: Detector, *, split: Split, profile: Profile) -> tuple[FrameGraph | ImageBranch, list[Tensors]]:
    """What becomes a graph, and what goes into it at the first frames of a split."""
    if detector.cannot("export"):
        few = _first_batches(split, profile=profile)
        return branch_on(cast(ConfiguredDetector, detector), few)
    frame = frame_of(detector, profile=profile)
    return frame, first_frames(frame, split=split, profile=profile)


def _gate_split(job: Job) -> Split:
    """The first scene of the train split, and no other that would have to be made or looked at first."""
    data = job.stated.data.model_copy(update={"train_scenes": 1})
    return job.of(job.stated.model_copy(update={"data": data})).split("train")


def _gate(frame: TensorGraph, lowered: Lowered, *, target: str, sequence: list[Tensors]) -> GateReport:
    load = partial(WAYS[target].session, lowered.model)
    session = load()
    tapped = GroupedTaps(session, load=lambda taps: load(taps=taps), taps=lowered.taps)
    report = check(frame, session=session, tapped=tapped, sequence=sequence, biases=lowered.biases)
    report.layers, report.foreign = session.layers(lowered.weights), session.foreign(lowered.weights)
    return report


def _count(report: GateReport, lowered: Lowered, *, frame: TensorGraph, quantized: Quantized) -> None:
    count = second_count(lowered, frame=frame, quantized=quantized)
    report.operations = {"macs": count.macs, "bit_operations": count.bit_operations}
    report.miscounted = count.differing


def first_frames(frame: FrameGraph, *, split: Split, profile: Profile) -> list[Tensors]:
    """The first frames of the first scene, as the graph takes them."""
    device = frame.inputs["image"].device
    sequence: list[Tensors] = []
    before: list[Frame] = []
    for batch in _first_batches(split, profile=profile):
        inputs = inputs_on(batch, device=device)
        for place, sample in enumerate(batch["data_samples"]):
            sequence.append(frame.feeds(inputs, sample, place=place, before=before))
            before = frame.seen(before, sample.metainfo["frames"][-1])
    return sequence


def _first_batches(split: Split, *, profile: Profile) -> Iterator[Batch]:
    first = split.first_scenes(1)
    few = Split(first.root, first.version, first.samples[:GATE_FRAMES], "", rig=first.rig)
    return fetched(streaming_batches(streaming_dataset(few, model=profile.model), streams=1, workers=0))


def _metadata(
    frame: FrameGraph | ImageBranch, *, profile: Profile, model: Artifact, scored: Artifact | None, target: str
) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "target": target,
        "model": profile.model.name,
        "quantization": profile.quantization.label,
        **(branch_metadata(frame) if isinstance(frame, ImageBranch) else _detector_metadata(frame, profile=profile)),
        "artifact": model.digest,
        "parents": dict(model.manifest.parents),
        "score": None if scored is None else _score(scored),
    }


def _detector_metadata(frame: FrameGraph, *, profile: Profile) -> dict[str, Any]:
    structure = profile.model.content()
    return {
        "classes": list(kind_of(profile.model).classes(profile.model, profile.data.rig)),
        "image": structure.get("image"),
        "ranges": {name: section.range_m for name, section in profile.model if hasattr(section, "range_m")},
        "lift": structure.get("lift"),
        "circles_m2": list(frame.circles_m2),
        "carried": dict(frame.carried),
        "meanings": dict(frame.meanings),
    }


def _score(evaluation: Artifact) -> dict[str, Any]:
    """Of the detector before it was exported: what the graph itself scores is known once it was evaluated."""
    manifest = evaluation.manifest
    return {name: manifest.metrics[name] for name in ("NDS", "mAP")} | {
        name: manifest.data[name] for name in ("split", "samples", "data")
    }


def _evaluation_of(model: Artifact, *, store: Store) -> Artifact | None:
    """The newest evaluation of a model that has scores."""
    scored = (
        artifact
        for artifact in reversed(store.list())
        if artifact.manifest.kind == EVALUATION
        and artifact.manifest.parents["model"] == model.digest
        and "NDS" in artifact.manifest.metrics
    )
    return next(scored, None)


def _summary(report: GateReport) -> dict[str, Any]:
    fates = [layer.fate for layer in report.layers]
    return {
        "frames": report.frames,
        "taps": len(report.taps),
        "largest_steps": max((tap.largest for tap in report.taps.values()), default=0),
        "largest_share": max((tap.share for tap in report.taps.values()), default=0.0),
        "outputs": report.outputs,
        "free_boxes": report.free_boxes,
        **({"operations": report.operations} if report.operations else {}),
        "layers": {fate: fates.count(fate) for fate in ("integers", "float", "changed")},
    }


def _leave(report: GateReport, *, store: Store, name: str) -> Path:
    path = store.root / _FAILED / f"{name}.json"
    with explained_writing(store.root):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_text(report), encoding="utf-8")
    return path


def _text(report: GateReport) -> str:
    return json.dumps(report.to_json(), indent=1) + "\n"
