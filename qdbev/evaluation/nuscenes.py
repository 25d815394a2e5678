"""nuScenes detection scores by nuscenes-devkit's own DetectionEval, on chosen scenes, with tables loaded once.

NDS, mAP and the five true-positive errors of detection_cvpr_2019. Only the loading differs from the devkit's command:
ground truth of any list of scenes, kept for the next submission. Filtering and evaluation are inherited.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from nuscenes import NuScenes
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.common.loaders import add_center_dist, filter_eval_boxes, load_gt_of_sample_tokens
from nuscenes.eval.detection.data_classes import DetectionBox, DetectionMetrics
from nuscenes.eval.detection.evaluate import DetectionEval

ERRORS = {"trans_err": "mATE", "scale_err": "mASE", "orient_err": "mAOE", "vel_err": "mAVE", "attr_err": "mAAE"}


@dataclass(frozen=True)
class Scores:
    """Scores of one submission; errors and AP per class are NaN where the devkit defines none."""

    nds: float
    mean_ap: float
    errors: dict[str, float]  # mATE m, mASE 1 - IoU, mAOE rad, mAVE m/s, mAAE 1 - accuracy
    classes: dict[str, dict[str, float]]  # class -> AP, ATE, ASE, AOE, AVE, AAE
    samples: int

    def flat(self) -> dict[str, float]:
        """NDS, mAP and the five errors in one dict."""
        return {"NDS": self.nds, "mAP": self.mean_ap, **self.errors}

    def serialize(self) -> dict[str, Any]:
        """The same as plain JSON values (NaN becomes None)."""
        return json.loads(json.dumps(asdict(self)).replace("NaN", "null"))


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Filtered ground truth of some scenes, and what is needed to filter predictions the same way."""

    tables: NuScenes
    boxes: EvalBoxes
    scene_of: dict[str, str]  # sample token -> scene name, in the order of time


class SceneEval(DetectionEval):
    """DetectionEval on ready boxes: same ``evaluate``, no files."""

    def __init__(self, truth: GroundTruth, *, predictions: EvalBoxes) -> None:
        self.nusc = truth.tables
        self.cfg = config_factory("detection_cvpr_2019")
        self.verbose = False
        self.gt_boxes = truth.boxes
        self.pred_boxes = predictions
        self.sample_tokens = truth.boxes.sample_tokens


def score(
    root: Path | str,
    *,
    version: str,
    submission: Mapping[str, Any] | Path | str,
    scenes: Sequence[str] | None = None,
) -> Scores:
    """Score a submission on some scenes (all of the tables where None).

    Args:
        root: Folder of the nuScenes tree.
        version: Table folder, such as v1.0-trainval.
        submission: The result dict (``{"meta", "results"}``) or a JSON file of it; samples outside the scenes are
            ignored, as the devkit does with samples outside its split.
        scenes: Scene names to evaluate on.

    Raises:
        ValueError: a scene or a sample is missing, a sample has more than 500 boxes, or the file is no submission.
    """
    truth = ground_truth(root, version=version, scenes=scenes)
    return summarise(SceneEval(truth, predictions=predicted_boxes(submission, truth=truth)))


def summarise(evaluation: DetectionEval) -> Scores:
    """Run the inherited evaluation and name its numbers."""
    with quiet():
        metrics, _ = evaluation.evaluate()
    return scores_of(metrics, samples=len(evaluation.sample_tokens))


def scores_of(metrics: DetectionMetrics, *, samples: int) -> Scores:
    """The devkit's metrics object as ``Scores``."""
    aps = metrics.mean_dist_aps
    table = {
        name: {"AP": float(aps[name])}
        | {short[1:]: float(metrics.get_label_tp(name, key)) for key, short in ERRORS.items()}
        for name in metrics.cfg.class_names
    }
    errors = {short: float(metrics.tp_errors[key]) for key, short in ERRORS.items()}
    return Scores(float(metrics.nd_score), float(metrics.mean_ap), errors, table, samples)


def ground_truth(root: Path | str, *, version: str, scenes: Sequence[str] | None = None) -> GroundTruth:
    """Filtered ground truth of some scenes; kept in this process until the tables change."""
    folder = Path(root).resolve()
    return _ground_truth(folder, version, None if scenes is None else tuple(scenes), _signature(folder / version))


def predicted_boxes(submission: Mapping[str, Any] | Path | str, *, truth: GroundTruth) -> EvalBoxes:
    """Predictions on the samples of ``truth``, with the devkit's distance and bicycle-rack filters applied.

    Raises:
        ValueError: see ``score``.
    """
    content = submission if isinstance(submission, Mapping) else _read(Path(submission))
    config = config_factory("detection_cvpr_2019")
    results = _results_of(content, truth=truth, max_boxes=config.max_boxes_per_sample)
    try:
        boxes = EvalBoxes.deserialize(results, DetectionBox)
    except (AssertionError, KeyError, TypeError) as error:
        raise ValueError(
            f"the submission has a box nuScenes does not accept ({type(error).__name__}: {error})."
        ) from error
    return _filtered(boxes, tables=truth.tables, class_range=config.class_range)


def _results_of(content: Mapping[str, Any], *, truth: GroundTruth, max_boxes: int) -> dict[str, Any]:
    """The boxes of each sample of ``truth``; ValueError where a sample is missing or has too many."""
    if not isinstance(content.get("results"), Mapping):
        raise ValueError(
            "a submission holds 'results', a dict from sample token to a list of boxes; this one does not."
        )
    results = content["results"]
    missing = [token for token in truth.scene_of if token not in results]
    if missing:
        raise ValueError(
            f"the submission lacks {len(missing)} of {len(truth.scene_of)} samples, first {missing[0]} of "
            f"{truth.scene_of[missing[0]]}; give every sample of the scenes an entry, if only an empty list."
        )
    for token in truth.scene_of:
        if len(results[token]) > max_boxes:
            raise ValueError(f"sample {token} has {len(results[token])} boxes, nuScenes allows {max_boxes}.")
    return {token: results[token] for token in truth.scene_of}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Swallow what the devkit prints, and numpy's warnings about classes without any match."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        np.errstate(all="ignore"),
    ):
        yield


def _filtered(boxes: EvalBoxes, *, tables: NuScenes, class_range: dict[str, float]) -> EvalBoxes:
    """Distance, point-count and bicycle-rack filters of the devkit, which cannot take a set without any box."""
    boxes = add_center_dist(tables, boxes)
    return filter_eval_boxes(tables, boxes, class_range) if boxes.all else boxes


def _signature(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of each table: what a kept table set is keyed by."""
    tables = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.glob("*.json"))]
    if not tables:
        raise ValueError(
            f"no nuScenes tables in {folder}; give the root that holds {folder.name}/ with its .json files."
        )
    return tuple(tables)


@lru_cache(maxsize=1)
def _tables(root: Path, version: str, signature: tuple[tuple[str, int, int], ...]) -> NuScenes:
    try:
        return NuScenes(version=version, dataroot=str(root), verbose=False)
    except Exception as error:  # the devkit asserts, or fails at the first row that is not as it expects
        raise ValueError(
            f"the nuScenes tables in {root / version} do not load ({type(error).__name__}: {error}); "
            "the data set is incomplete or damaged: unpack or generate it again."
        ) from error


@lru_cache(maxsize=4)
def _ground_truth(
    root: Path, version: str, scenes: tuple[str, ...] | None, signature: tuple[tuple[str, int, int], ...]
) -> GroundTruth:
    tables = _tables(root, version, signature)
    first = {record["name"]: record["first_sample_token"] for record in tables.scene}
    missing = [] if scenes is None else sorted(set(scenes) - set(first))
    if missing:
        raise ValueError(f"{len(missing)} scene(s) to score are not in {root / version}, first {missing[0]}.")
    scene_of = {}
    for name in first if scenes is None else scenes:
        token = first[name]
        while token and token not in scene_of:
            scene_of[token] = name
            token = tables.get("sample", token)["next"]
    class_range = config_factory("detection_cvpr_2019").class_range
    try:
        with quiet():
            boxes = load_gt_of_sample_tokens(tables, list(scene_of), DetectionBox)
        return GroundTruth(tables, _filtered(boxes, tables=tables, class_range=class_range), scene_of)
    except Exception as error:  # as above
        raise ValueError(
            f"the devkit takes no ground truth from {root / version} ({type(error).__name__}: {error}); "
            "`qdbev data prepare` says more."
        ) from error


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(
            f"submission {path} cannot be read ({error.strerror}); give the file `evaluate` wrote."
        ) from error
    except json.JSONDecodeError as error:
        raise ValueError(f"submission {path} is not JSON ({error}); write it again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"submission {path} holds a {type(content).__name__}, not a dict with 'meta' and 'results'.")
    return content
