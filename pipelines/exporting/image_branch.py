"""What is exported of a detector that cannot be one graph from images to boxes: its backbone and neck, on images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pipelines.store.artifacts import Artifact
from qdbev.detectors.configured import ConfiguredDetector, ImageBranch
from qdbev.detectors.frame_graph import Tensors

HOLDS, IMAGE_BRANCH = "holds", "image branch"
"""Among what an export says of itself, where it is not a whole detector."""


def branch_on(detector: ConfiguredDetector, batches: Iterable[Mapping[str, Any]]) -> tuple[ImageBranch, list[Tensors]]:
    """The image branch, and the images of some key frames as it takes them.

    Args:
        detector: On the CPU.
        batches: A key frame each.

    Raises:
        ValueError: It has no image branch, or one that cannot be a graph.
    """
    branch, sequence = None, []
    for batch in batches:
        branch = branch or ImageBranch(detector, batch["inputs"], batch["data_samples"])
        sequence.append(branch.feeds(batch["inputs"], batch["data_samples"]))
    assert branch is not None
    return branch, sequence


def branch_metadata(branch: ImageBranch) -> dict[str, Any]:
    """What the file says of the branch beside what every export says."""
    return {
        HOLDS: IMAGE_BRANCH,
        "modules": branch.paths,
        "left_out": branch.left_out,
        "normalisation": branch.normalisation,
        "meanings": dict(branch.meanings),
        "carried": {},
    }


def refuse_image_branch(model: Artifact) -> None:
    """Refuse to score an export without boxes.

    Raises:
        ValueError: It is an image branch.
    """
    if model.manifest.data.get(HOLDS) == IMAGE_BRANCH:
        raise ValueError(
            f"{model.path.name} is an image branch, which gives feature maps and has no boxes to score: evaluate the "
            "artifact that it was exported from"
        )
