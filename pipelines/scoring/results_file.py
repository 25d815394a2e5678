"""The submission that an evaluation keeps beside its scores: compressed, and in older evaluations as it is."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.lineage.kinds import RESULTS, SUBMISSION
from pipelines.store.artifacts import Artifact, DamagedArtifact

_LEVEL = 6  # of gzip; 9 takes three times as long for a hundredth less


def write_results(content: Mapping[str, Any], *, folder: Path) -> None:
    """Write a submission, compressed; the same content gives the same bytes.

    Args:
        content: What ``submission`` gives.
        folder: Of the artifact.
    """
    text = json.dumps(content, allow_nan=False).encode("utf-8")
    (folder / RESULTS).write_bytes(gzip.compress(text, compresslevel=_LEVEL, mtime=0))


def results_path(evaluation: Artifact) -> Path:
    """The file of a sealed evaluation's submission.

    Raises:
        DamagedArtifact: It holds none.
    """
    return evaluation.file(RESULTS if RESULTS in evaluation.manifest.files else SUBMISSION)


def read_results(evaluation: Artifact) -> dict[str, Any]:
    """The submission of a sealed evaluation, as objects.

    Raises:
        DamagedArtifact: It holds none, or one that is no JSON object.
    """
    path = results_path(evaluation)
    try:
        content = json.loads(gzip.decompress(path.read_bytes()) if path.name == RESULTS else path.read_bytes())
    except (OSError, EOFError, ValueError) as error:
        raise DamagedArtifact(f"{path} is not the submission that was sealed: {error}") from error
    if not isinstance(content, dict):
        raise DamagedArtifact(f"{path} holds no JSON object")
    return content
