"""What the authors of a detector print for its weights on nuScenes val, and how a score of one's own compares."""

from __future__ import annotations

from typing import Any, NamedTuple

from pipelines.lineage.kinds import FLOAT
from pipelines.store.artifacts import Artifact
from pipelines.store.locations import SYNTHETIC

NEAR = 0.005
"""NDS within which a score is the published one: other versions of libraries move it by a few thousandths."""
_VAL_SAMPLES = 6_019


class Printed(NamedTuple):
    """Scores on the 6,019 samples of nuScenes val."""

    nds: float
    mean_ap: float


PUBLISHED = {
    "tiny": Printed(0.354, 0.252),  # BEVFormer's model table
    "small": Printed(0.479, 0.370),
    "base": Printed(0.517, 0.416),
    "petr": Printed(0.367, 0.317),  # p4, ResNet-50 with deformable convolutions
    "detr3d": Printed(0.422, 0.347),  # ResNet-101 with deformable convolutions, without CBGS
    "bevdet": Printed(0.377, 0.299),
    "bevdepth": Printed(0.436, 0.330),  # two key frames, 24 epochs
}


def against_published(evaluation: Artifact) -> str:
    """A sentence on a float detector's score beside the published one; empty where there is none to hold it against.

    Args:
        evaluation: Sealed, with its scores.
    """
    manifest = evaluation.manifest
    profile: Any = manifest.profile
    name, data = profile["model"]["name"], profile["data"]
    stands = (manifest.data.get("model_kind"), manifest.data.get("split"), data["version"])
    if name not in PUBLISHED or stands != (FLOAT, "val", "v1.0-trainval") or data["source"] == SYNTHETIC:
        return ""
    samples, printed = int(str(manifest.data["samples"])), PUBLISHED[name].nds
    if samples != _VAL_SAMPLES:
        return f"{printed:.3f} NDS is published for {name} on {_VAL_SAMPLES:,} samples; these are {samples:,}"
    here = float(str(manifest.metrics["NDS"]))
    if abs(here - printed) <= NEAR:
        return f"{printed:.3f} NDS expected, {here:.3f} here: these are the published weights, read as they should be"
    return (
        f"{printed:.3f} NDS expected for {name}, {here:.3f} here: unless these are other weights, look at images, CAN "
        "bus and weights before you go on (`qdbev data prepare`)"
    )
