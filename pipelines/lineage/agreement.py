"""Whether the small files of an artifact say what its manifest says: a seal that fits bytes says nothing of that."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn, get_args

from pipelines.lineage.kinds import BITS, CURVE, DETAILS, LOSSES, STRUCTURE
from pipelines.store.artifacts import Artifact, DamagedArtifact
from profiles.manifest import Manifest
from profiles.sections.calibration import CalibrationMethod

Check = Callable[[Any, Manifest], None]
_MEASURED = ("predicted_loss", "uniform", "share", "mean_bits")


def check_agreement(artifact: Artifact) -> None:
    """Compare the small files of a verified artifact with its manifest.

    Raises:
        DamagedArtifact: Naming the artifact and the file that contradicts the manifest.
    """
    for name, check in CHECKS.items():
        if name in artifact.manifest.files:
            try:
                check(_read(artifact.file(name)), artifact.manifest)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError, csv.Error) as error:
                text = str(error) if isinstance(error, ValueError) else f"it is not as it must be ({error})"
                raise DamagedArtifact(f"artifact {artifact.path.name} is refused: {name}: {text}") from None


def _read(path: Path) -> Any:
    """JSON, or the rows of a table, their steps numbers."""
    if path.suffix == ".csv":
        rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines(), strict=True)
        return [{**row, "step": int(row["step"])} for row in rows]
    return json.loads(path.read_bytes(), parse_constant=_refuse_constant)


def _scores(document: Any, manifest: Manifest) -> None:
    """Scores are those of the manifest, the mean AP is the mean of the classes'."""
    scores = {"NDS": document["nds"], "mAP": document["mean_ap"], **document["errors"]}
    _compare(scores, manifest.metrics)
    _compare({"samples": document["samples"]}, manifest.data)
    precisions = [row["AP"] for row in document["classes"].values()]
    if not math.isclose(sum(precisions) / len(precisions), document["mean_ap"], abs_tol=1e-9):
        raise ValueError("mean_ap is not the mean of the classes' AP")


def _bits(document: Any, manifest: Manifest) -> None:
    """Predicted loss, shares and mean bits are those of the manifest."""
    _compare({name: document[name] for name in _MEASURED}, manifest.metrics)


def _structure(document: Any, manifest: Manifest) -> None:
    """The parts that are on are those of the manifest, where it names them."""
    if "parts" in manifest.data:
        _compare({"parts": document["parts"]}, manifest.data)


def _curve(document: Any, manifest: Manifest) -> None:
    """Steps grow and end at the last of the training."""
    steps = [row["step"] for row in document]
    if any(later <= earlier for earlier, later in pairwise(steps)):
        raise ValueError("its steps do not grow")
    if steps and "steps" in manifest.metrics and steps[-1] > int(str(manifest.metrics["steps"])):
        raise ValueError(f"it has step {steps[-1]}, the manifest {manifest.metrics['steps']} steps in all")


def _record(document: Any, manifest: Manifest, *, method: str) -> None:
    """A record is of the method that the profile names."""
    if not isinstance(document, dict):
        raise ValueError("it is no record")
    section: Any = manifest.profile["calibration"]
    if section["method"] != method:
        raise ValueError(f"the manifest's method is {section['method']}")


def _smoothing(document: Any, manifest: Manifest) -> None:
    """Something was to be smoothed, by positive factors."""
    section: Any = manifest.profile["calibration"]
    if section["smoothing"] is None:
        raise ValueError("the manifest's profile smooths nothing")
    if any(not 0 < row["least"] <= row["most"] for row in document["smoothed"]):
        raise ValueError("factors are not above zero, the least before the most")


def _compare(stated: Mapping[str, Any], sealed: Mapping[str, Any]) -> None:
    for name, value in stated.items():
        if name not in sealed:
            raise ValueError(f"{name} is not in the manifest")
        if value != sealed[name]:
            raise ValueError(f"{name} is not what the manifest says")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is no number")


CHECKS: Mapping[str, Check] = {
    DETAILS: _scores,
    BITS: _bits,
    STRUCTURE: _structure,
    CURVE: _curve,
    LOSSES: _curve,
    "smoothing.json": _smoothing,
    **{f"{method}.json": partial(_record, method=method) for method in get_args(CalibrationMethod)},
}
