"""A float training that starts from the image backbone of another detector, as one does from that of a classifier."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pipelines.assembly.detector import Detector
from pipelines.assembly.job import Job
from pipelines.assembly.tensors import read_tensors
from pipelines.lineage.kinds import FLOAT, WEIGHTS
from pipelines.lineage.stated import shipped_weights
from pipelines.store.artifacts import Artifact
from pipelines.store.integrity import UnusableInput
from profiles.sections.model import sealed_model


def backbone_source(job: Job) -> Artifact | None:
    """The artifact whose image backbone a job's float training starts from, in its store; None: from scratch.

    Raises:
        UnusableInput: It holds no float weights.
        MissingArtifact: Nothing has that name.
    """
    source = job.profile.float_training.backbone_from
    if source is None:
        return None
    artifact = shipped_weights(source) or job.store.open(source)
    if artifact.manifest.kind != FLOAT:
        raise UnusableInput(
            f"float_training.backbone_from is {source}, of kind {artifact.manifest.kind}: name one of kind {FLOAT}"
        )
    return job.store.adopt(artifact)


def load_backbone(detector: Detector, *, source: Artifact, paths: tuple[str, ...]) -> str:
    """Load what fits of a source's image backbone.

    Args:
        detector: Changed in place.
        source: A float artifact of any kind of detector.
        paths: Of the detector's own image backbone.

    Returns:
        A sentence on how many tensors it was.

    Raises:
        UnusableInput: No layer fits.
    """
    stated: Any = source.manifest.profile["model"]
    there = sealed_model(stated, circumstances=source.manifest.record.circumstances)
    given = _below(read_tensors(source.file(WEIGHTS)), paths=there.backbone_paths)
    own = detector.state_dict()
    of_backbone = _below(own, paths=paths)
    fitting = {name for name, value in of_backbone.items() if name in given and given[name].shape == value.shape}
    if not any(given[name].dim() > 1 for name in fitting):
        raise UnusableInput(
            f"no layer of {source.path.name}'s image backbone has the name and shape of one of this model's; "
            "compare model.backbone of both, or leave float_training.backbone_from null"
        )
    for name in fitting:
        of_backbone[name].copy_(given[name])
    return f"image backbone: {len(fitting)} of {len(of_backbone)} tensors start as those of {source.path.name}"


def _below(state: dict[str, Tensor], *, paths: tuple[str, ...]) -> dict[str, Tensor]:
    """Tensors below any of some paths, by the rest of their names."""
    return {
        name.removeprefix(f"{path}."): value
        for path in paths
        for name, value in state.items()
        if name.startswith(f"{path}.")
    }
