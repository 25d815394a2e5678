"""evaluate: the submission of a detector on the evaluation split, scored by nuscenes-devkit, sealed with its scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipelines.assemble import float_artifact, float_detector, package_versions
from pipelines.chain import RESULTS, SCORES, lineage
from pipelines.locations import FLOAT
from pipelines.outcome import dry, finished, table
from pipelines.quantized import float_cost, load_quantized
from pipelines.samples import Split
from pipelines.scoring import evaluation_split, predict, score_results
from pipelines.store import Artifact, Store
from profiles import Profile, fingerprint
from qdbev.evaluation.submission import submission, write_submission

KIND = "evaluation"
DETAILS = "scores.json"
_MODELS = ("vgd", "qat-longer", "qat", "calibration", FLOAT)


def run(
    profile: Profile,
    *,
    store: Store,
    artifact: str | None = None,
    force: bool = False,
    dry_run: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Evaluate one artifact.

    Args:
        profile: Which data and how; the model of the artifact.
        store: Where artifacts are.
        artifact: What to evaluate, as the store names it; None takes the furthest stage of the profile, or the
            float detector where there is none.
        force: Evaluate again even if sealed.
        dry_run: Say what would be done.
        progress: Show bars.
    """
    model = store.open(artifact) if artifact else furthest(profile, store=store)
    if dry_run:
        return dry([f"evaluate {model.path.name} on the {profile.evaluation.split} split"])
    sealed = evaluate_artifact(profile, store=store, model=model, force=force, progress=progress)
    return finished(
        sealed,
        tables=[overall_table(sealed), class_table(sealed)],
        metrics=dict(sealed.manifest.metrics),
        messages=[f"scored {model.path.name} by nuscenes-devkit's DetectionEval"],
    )


def furthest(profile: Profile, *, store: Store) -> Artifact:
    """The artifact furthest along the chain that was made with this profile and model."""
    for kind in _MODELS[:-1]:
        if found := store.last(kind, profile=profile.name, model=profile.model.name):
            return found
    return float_artifact(profile, store=store)


def evaluate_artifact(
    profile: Profile, *, store: Store, model: Artifact, force: bool = False, progress: bool = False
) -> Artifact:
    """The sealed evaluation of a model artifact; found where it was done before.

    Raises:
        ValueError: The artifact holds no model.
    """
    kind = model.manifest.kind
    if kind not in _MODELS:
        raise ValueError(f"{model.path.name} is a {kind} artifact, which holds no detector: name one of {_MODELS}")
    split = evaluation_split(profile, progress=progress)
    settings = {"split": profile.evaluation.split, "max_boxes": profile.evaluation.max_boxes, "data": split.digest}
    refuse_calibrated(model, split=split, store=store)
    key = fingerprint({"kind": KIND, "model": model.digest, **settings})
    if (known := store.find(KIND, key=key)) and not force:
        return known
    cost: dict[str, Any] = {}
    if kind == FLOAT:
        detector, _ = float_detector(profile.model_copy(update={"model": _with_weights(profile, model)}), store=store)
        cost = float_cost(detector, profile=profile, split=split)
    else:
        detector = load_quantized(model, profile=profile).detector
    label = f"evaluate {kind}"
    results = predict(detector, split=split, profile=profile, label=label, progress=progress)

    scores = score_results(results, split=split)

    def write(folder: Path) -> None:
        write_submission(submission(results), path=folder / RESULTS)
        (folder / DETAILS).write_text(json.dumps(scores.serialize(), indent=1, sort_keys=True) + "\n", encoding="utf-8")

    return store.seal(
        KIND,
        profile=profile,
        key=key,
        write=write,
        parents={"model": model.digest},
        data={**settings, "model_kind": kind, "scenes": len(split.scenes), "samples": len(split.samples)},
        metrics=cost | scores.flat(),
        packages=package_versions(),
        replace=force,
    )


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


def overall_table(evaluation: Artifact) -> dict[str, Any]:
    """NDS, mAP and the five errors in one row."""
    metrics = evaluation.manifest.metrics
    scenes, samples = evaluation.manifest.data["scenes"], evaluation.manifest.data["samples"]
    return table(
        "Scores",
        headers=list(SCORES),
        rows=[[metrics[name] for name in SCORES]],
        notes=[f"{samples} samples of {scenes} scenes, detection_cvpr_2019"],
    )


def class_table(evaluation: Artifact) -> dict[str, Any]:
    """AP and errors of every class."""
    scores = json.loads(evaluation.file(DETAILS).read_text(encoding="utf-8"))
    headers = ["class", "AP", "ATE", "ASE", "AOE", "AVE", "AAE"]
    rows = [[name, *(values[key] for key in headers[1:])] for name, values in scores["classes"].items()]
    return table("Classes", headers=headers, rows=rows)


def _with_weights(profile: Profile, artifact: Artifact) -> Any:
    return profile.model.model_copy(update={"weights": str(artifact.path)})
