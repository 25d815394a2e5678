"""The sealed evaluation of one model: predictions on whole scenes, scored by nuscenes-devkit, with their submission."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipelines.assembly.quantized import float_cost, load_quantized
from pipelines.assembly.samples import Split, notes_on_motion, sensors
from pipelines.assembly.weights import float_detector, package_versions
from pipelines.lineage.chain import RESULTS, lineage
from pipelines.scoring.prediction import evaluation_split, predict, score_results
from pipelines.store import processes
from pipelines.store.artifacts import Artifact, Store
from pipelines.store.locations import FLOAT
from profiles import Profile, fingerprint
from profiles.sections.model import ModelProfile
from profiles.sections.quantization import QuantizationProfile
from qdbev.evaluation.submission import submission, write_submission

KIND = "evaluation"
DETAILS = "scores.json"
MODELS = ("vgd", "qat-longer", "qat", "calibration", FLOAT)


def evaluate_artifact(
    profile: Profile,
    *,
    store: Store,
    model: Artifact,
    scored: bool = True,
    force: bool = False,
    progress: bool = False,
) -> Artifact:
    """The sealed evaluation of a model artifact; found where it was done before.

    Args:
        profile: Its data, evaluation and device sections.
        store: Where artifacts are.
        model: What is evaluated.
        scored: Insist on scores; without, the test split gives its submission alone.
        force: Evaluate again even if sealed.
        progress: Show bars.

    Raises:
        ValueError: The artifact holds no model, or the split cannot be scored.
    """
    kind = model.manifest.kind
    if kind not in MODELS:
        raise ValueError(f"{model.path.name} is a {kind} artifact, which holds no detector: name one of {MODELS}")
    profile = as_made(model, profile=profile)
    split = evaluation_split(profile, scored=scored, progress=progress)
    settings = {"split": profile.evaluation.split, "max_boxes": profile.evaluation.max_boxes, "data": split.digest}
    refuse_calibrated(model, split=split, store=store)
    structure = profile.model.content() | {"weights": None}
    key = fingerprint({"kind": KIND, "model": model.digest, "structure": structure, **settings})
    if not force and (known := store.find(KIND, key=key)):
        return known
    cost: dict[str, Any] = {}
    if kind == FLOAT:
        weights = profile.model.model_copy(update={"weights": str(model.path)})
        detector, _ = float_detector(profile.model_copy(update={"model": weights}), store=store)
        cost = float_cost(detector, profile=profile, split=split)
    else:
        detector = load_quantized(model, profile=profile).detector
    label = f"evaluate {kind}"
    results = predict(detector, split=split, profile=profile, label=label, progress=progress)
    unscored = profile.evaluation.split == "test" or not processes.is_first()  # the first process writes, so it scores
    scores = None if unscored else score_results(results, split=split)

    def write(folder: Path) -> None:
        write_submission(submission(results, **sensors(profile.model)), path=folder / RESULTS)
        if scores is not None:
            details = json.dumps(scores.serialize(), indent=1, sort_keys=True)
            (folder / DETAILS).write_text(details + "\n", encoding="utf-8")

    return store.seal(
        KIND,
        profile=profile,
        key=key,
        write=write,
        parents={"model": model.digest},
        data={**settings, "model_kind": kind, "scenes": len(split.scenes), "samples": len(split.samples)},
        metrics=cost | (scores.flat() if scores is not None else {}),
        packages=package_versions(),
        notes=notes_on_motion(split),
        replace=force,
    )


def as_made(model: Artifact, *, profile: Profile) -> Profile:
    """The profile with the quantization that the model was made with, and with its own structure if it is another's."""
    stated = model.manifest.profile
    own: dict[str, Any] = {}
    if model.manifest.kind != FLOAT:
        own["quantization"] = QuantizationProfile.model_validate(stated["quantization"])
    structure = stated["model"]
    assert isinstance(structure, dict)
    if structure["name"] != profile.model.name:
        config = model.manifest.record.circumstances.get("model.mmdet3d.config")
        place = {"mmdet3d": {**structure["mmdet3d"], "config": config}} if config else {}  # type: ignore[dict-item]
        own["model"] = ModelProfile.model_validate({**structure, **place})
    return profile.model_copy(update=own)


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
