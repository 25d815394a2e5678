"""Ground truth of chosen scenes as boxes that count, and what filters predictions the same way.

Source: nuscenes-devkit, ``eval/common/loaders.py``, ``load_gt_of_sample_tokens``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from nuscenes.utils.data_classes import Box
from pyquaternion import Quaternion

from qdbev.evaluation.boxes import UNSCORED, Boxes
from qdbev.evaluation.filters import RACK, Surroundings, counted
from qdbev.evaluation.rules import NUSCENES, Rules
from qdbev.evaluation.tables import Annotations, read_annotations, read_ego_positions, read_samples, read_scenes

Signature = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Filtered ground truth of some scenes, and what is needed to filter predictions the same way."""

    boxes: Boxes
    surroundings: Surroundings
    scene_of: dict[str, str]
    """Scene name by sample token, scene after scene in the order of time: samples are numbered so."""
    rules: Rules = NUSCENES


def ground_truth(
    root: Path | str, *, version: str, scenes: Sequence[str] | None = None, rules: Rules = NUSCENES
) -> GroundTruth:
    """Filtered ground truth of some scenes; kept in this process until the tables change.

    Args:
        root: Folder of the nuScenes tree.
        version: Table folder, such as v1.0-trainval.
        scenes: Scene names; all of the tables where None.
        rules: Which annotations are of which class, and which count.

    Raises:
        ValueError: A scene is not there, or the tables do not fit each other.
    """
    folder = Path(root).resolve() / version
    return _ground_truth(folder, None if scenes is None else tuple(scenes), rules, signature(folder))


def signature(folder: Path) -> Signature:
    """Name, size and time of each table: what tables kept in memory are keyed by."""
    tables = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.glob("*.json"))]
    if not tables:
        raise ValueError(
            f"no nuScenes tables in {folder}; give the root that holds {folder.name}/ with its .json files."
        )
    return tuple(tables)


@lru_cache(maxsize=4)
def _ground_truth(folder: Path, scenes: tuple[str, ...] | None, rules: Rules, _signature: Signature) -> GroundTruth:
    with _reading(folder):
        first = read_scenes(folder)
    missing = [] if scenes is None else sorted(set(scenes) - set(first))
    if missing:
        raise ValueError(f"{folder} lacks {len(missing)} of the scenes to score, first {missing[0]}.")
    with _reading(folder):
        samples = read_samples(folder, first={name: first[name] for name in (first if scenes is None else scenes)})
        annotations = read_annotations(folder, samples=samples)
        ego = read_ego_positions(folder, tokens=list(samples.scene_of), clock=rules.clock)
        at = Surroundings(ego, _racks(annotations))
        boxes = counted(_boxes(annotations, rules=rules), at=at, rules=rules)
        return GroundTruth(boxes, at, samples.scene_of, rules)


@contextlib.contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """ValueError, in a sentence, for whatever a row that is not as it should be leads to."""
    try:
        yield
    except (LookupError, TypeError, ValueError, OSError, RecursionError) as error:
        raise ValueError(
            f"the nuScenes tables in {folder} give no ground truth ({type(error).__name__}: {error}); the data set is "
            "incomplete or damaged: `qdbev data prepare` says more."
        ) from error


def _boxes(annotations: Annotations, *, rules: Rules) -> Boxes:
    """The annotations of the detection classes."""
    label_of = {category: rules.class_names.index(name) for category, name in rules.class_of.items()}
    label = np.array([label_of.get(name, -1) for name in annotations.category], dtype=np.int64)
    rows = np.flatnonzero(label >= 0)
    shape = {name: getattr(annotations, name)[rows] for name in ("translation", "size", "rotation")}
    if any(np.isnan(column).any() for column in shape.values()):
        raise ValueError("a translation, size or rotation in sample_annotation is NaN")
    return Boxes(
        sample=annotations.sample[rows],
        label=label[rows],
        attribute=np.array(
            [_attribute(annotations.attributes[row], known=rules.attributes) for row in rows], dtype=np.int64
        ),
        points=annotations.points[rows],
        velocity=annotations.velocity[rows],
        score=np.full(len(rows), UNSCORED),
        **shape,
    )


def _attribute(names: Sequence[str], *, known: Sequence[str]) -> int:
    if len(names) > 1:
        raise ValueError(f"an annotation has {len(names)} attributes, nuScenes allows one")
    return known.index(names[0]) + 1 if names else 0


def _racks(annotations: Annotations) -> dict[int, list[Box]]:
    racks: dict[int, list[Box]] = {}
    for row in (row for row, category in enumerate(annotations.category) if category == RACK):
        box = Box(annotations.translation[row], annotations.size[row], Quaternion(annotations.rotation[row]))
        racks.setdefault(int(annotations.sample[row]), []).append(box)
    return racks
