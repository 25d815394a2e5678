"""The sealed evaluation of one model: predictions on whole scenes, their scores, and their submission."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch

from pipelines.assembly.detector import Detector
from pipelines.assembly.job import Job
from pipelines.assembly.quantized import float_cost, load_quantized
from pipelines.assembly.quantized_files import check_quantized
from pipelines.assembly.samples import Split, notes_on, sensors
from pipelines.assembly.weights import float_detector, package_versions
from pipelines.exporting.image_branch import refuse_image_branch
from pipelines.exporting.onnx import executed, runtime_of
from pipelines.exporting.packed import load_packed
from pipelines.exporting.simulation import simulated
from pipelines.exporting.ways import SIMULATION
from pipelines.lineage.agreement import check_agreement
from pipelines.lineage.chain import lineage
from pipelines.lineage.keys import evaluation_key
from pipelines.lineage.kinds import DETAILS, EVALUATION, FLOAT, FRAME_S, MODELS, ONNX, PACKED, SUBMISSION, TO_TRAINED
from pipelines.lineage.models import as_made
from pipelines.scoring.comparison import interval, match_results, matches_of, resampled
from pipelines.scoring.prediction import predict, refuse_nothing_to_find, score_results
from pipelines.scoring.results import Results
from pipelines.scoring.results_file import read_results, write_results
from pipelines.scoring.rules import rules_of
from pipelines.store import processes
from pipelines.store.artifacts import Artifact, Store
from pipelines.store.making import Content, Made, made
from qdbev.evaluation.devkits.nuscenes import devkit_scores
from qdbev.evaluation.devkits.truckscenes import truckscenes_scores
from qdbev.evaluation.scores import Scores
from qdbev.evaluation.submission import submission, write_submission

SCORED_BEFORE = "scored before"


def evaluate_artifact(job: Job, *, model: Artifact, scored: bool = True) -> Artifact:
    """The sealed evaluation of a model artifact; arguments as in ``evaluation_of``."""
    return evaluation_of(job, model=model, scored=scored).artifact


def evaluation_of(job: Job, *, model: Artifact, scored: bool = True, runtime: str | None = None) -> Made:
    """The sealed evaluation of a model artifact, found where it was done before, and what is to be said of it.

    Args:
        job: Its data, evaluation and device sections.
        model: What is evaluated.
        scored: Insist on scores; without, the test split gives its submission alone.
        runtime: What runs an exported graph; None takes the one that it was exported for.

    Raises:
        ValueError: The artifact holds no model, or no graph for a runtime, or the split cannot be scored.
        DamagedArtifact: Its files contradict each other.
    """
    refuse_no_detector(model)
    check_quantized(model)
    job = job.of(as_made(model, profile=job.profile))
    split = job.evaluation_split(scored=scored)
    section = job.profile.evaluation
    settings = {"split": section.split, "max_boxes": section.max_boxes, "data": split.digest}
    settings |= runtime_stated(model, stated=runtime)
    trained = _exported_model(model, job=job, scored=section.split != "test")
    refuse_calibrated(model, split=split, store=job.store)
    key = evaluation_key(job.profile, model=model.digest, settings=settings)
    scratch = job.store.scratch_path(EVALUATION, key=key)
    make = partial(_evaluate, job, model=model, settings=settings, scratch=scratch, trained=trained)
    evaluated = made(job, EVALUATION, key=key, make=make, known=SCORED_BEFORE)
    check_agreement(evaluated.artifact)
    return evaluated


def refuse_no_detector(model: Artifact) -> None:
    """Refuse an artifact that cannot be evaluated.

    Raises:
        ValueError: It holds no detector.
    """
    kind = model.manifest.kind
    if kind not in MODELS:
        raise ValueError(f"{model.path.name} is a {kind} artifact, which holds no detector: name one of {MODELS}")
    refuse_image_branch(model)


def runtime_stated(model: Artifact, *, stated: str | None) -> dict[str, str]:
    """What runs a graph, as a setting of its evaluation; nothing for what torch runs.

    Raises:
        ValueError: A runtime is stated for what is no graph.
    """
    if model.manifest.kind == ONNX:
        return {"runtime": stated or runtime_of(model)}
    if stated is not None:
        raise ValueError(f"--runtime {stated} runs exported graphs, and {model.path.name} is none: `qdbev export onnx`")
    return {}


def _exported_model(model: Artifact, *, job: Job, scored: bool) -> Artifact | None:
    """The evaluation of the model that a graph was exported from, on the same samples: what ran is held against it."""
    if model.manifest.kind != ONNX or not scored:
        return None
    return evaluate_artifact(job, model=job.store.open(model.manifest.parents["model"]))


def _evaluate(
    job: Job, *, model: Artifact, settings: Mapping[str, Any], scratch: Path, trained: Artifact | None
) -> Content:
    """Predict the split and score it; ``settings`` are those of the key."""
    kind, split = model.manifest.kind, job.evaluation_split(scored=False)
    if settings["split"] != "test":
        refuse_nothing_to_find(split)
    unscored = settings["split"] == "test" or not processes.is_first()  # the first process writes, so it scores
    detector, cost = _detector_of(model, job=job, split=split, runtime=settings.get("runtime", ""))
    results = predict(detector, split=split, job=job, label=f"evaluate {kind}", scratch=scratch)
    scores = None if unscored else score_results(results, split=split)
    against = {} if unscored or trained is None else _difference(results, trained, split=split, job=job)

    def write(folder: Path) -> None:
        content = submission(results, **sensors(job.profile.model))
        if scores is None:
            write_submission(content, path=folder / SUBMISSION)
        else:
            write_results(content, folder=folder)
            details = json.dumps(scores.serialize(), indent=1, sort_keys=True)
            (folder / DETAILS).write_text(details + "\n", encoding="utf-8")

    return Content(
        write,
        parents={"model": model.digest, **({} if trained is None else {"trained": trained.digest})},
        data={
            **settings,
            "model_kind": kind,
            "scenes": len(split.scenes),
            "samples": len(split.samples),
            "boxes": results.boxes,
            "left_out": dict(results.left_out),
        },
        metrics=cost | (scores.flat() if scores is not None else {}) | against,
        packages=package_versions(),
        notes=notes_on(split),
        seconds={} if results.frame_s is None else {FRAME_S: results.frame_s},
        message=results.says_left_out(),
    )


def _difference(results: Results, trained: Artifact, *, split: Split, job: Job) -> dict[str, Any]:
    """The paired interval of NDS, what ran minus what was trained; nothing of scenes that are too few."""
    if not resampled(len(split.scenes), profile=job.profile):
        return {}
    base, other = matches_of(trained, split=split), match_results(results, split=split)
    return {TO_TRAINED: interval(base, other, profile=job.profile)}


def compared_with_devkit(evaluation: Artifact, *, split: Split) -> str:
    """Score the sealed submission by the data set's own devkit, and say how far the sealed scores are from its own."""
    sealed = json.loads(evaluation.file(DETAILS).read_text(encoding="utf-8"))
    tokens = [sample["token"] for sample in split.samples]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / SUBMISSION
        write_submission(read_results(evaluation), path=file)
        official = _official(split, submission=file, tokens=tokens)
    devkit = f"{split.rig.tables}-devkit"
    if official.serialize() == sealed:
        return f"{devkit}'s DetectionEval gives the same numbers, to the last bit"
    return f"{devkit}'s DetectionEval gives NDS {official.nds!r}, not {sealed['nds']!r}: please report this"


def _official(split: Split, *, submission: Path, tokens: Sequence[str]) -> Scores:
    if split.rig.tables == "truckscenes":
        return truckscenes_scores(split.root, version=split.version, submission=submission, tokens=tokens)
    rules = rules_of(split.rig)
    return devkit_scores(split.root, version=split.version, submission=submission, tokens=tokens, rules=rules)


def _detector_of(model: Artifact, *, job: Job, split: Split, runtime: str) -> tuple[Detector, dict[str, Any]]:
    """The detector of an artifact, and of a float one what it costs, which no manifest before says."""
    profile = job.profile
    if runtime == SIMULATION:
        return simulated(model, profile=profile, store=job.store), {}
    if model.manifest.kind == ONNX:
        return cast(Detector, executed(model, profile=profile, runtime=runtime, threads=torch.get_num_threads())), {}
    if model.manifest.kind == PACKED:
        return load_packed(model.path, profile=profile).detector, {}
    if model.manifest.kind != FLOAT:
        return load_quantized(model, profile=profile).detector, {}
    weights = profile.model.model_copy(update={"weights": str(model.path)})
    detector, _ = float_detector(job.of(profile.model_copy(update={"model": weights})))
    return detector, float_cost(detector, profile=profile, split=split)


def refuse_calibrated(model: Artifact, *, split: Split, store: Store) -> None:
    """Refuse to score samples that set the ranges of the model.

    Raises:
        ValueError: The split holds one of them.
    """
    tokens = {sample["token"] for sample in split.samples}
    for ancestor in lineage(model, store=store):
        used = ancestor.manifest.data.get("calibration_tokens", [])
        assert isinstance(used, list)
        if shared := tokens.intersection(str(token) for token in used):
            raise ValueError(
                f"{model.path.name} was calibrated on {len(shared)} of the samples to evaluate, first {min(shared)}: "
                "its scores would be flattered; evaluate on another split"
            )
