"""What the training stages share: the artifact to start from, and the key that makes a stage repeatable."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.samples import Split
from pipelines.store import Artifact, MissingArtifact, Store
from profiles import Profile, fingerprint
from profiles.schedule import Optimisation


def training_key(
    kind: str,
    *,
    parent: Artifact,
    profile: Profile,
    schedule: Optimisation,
    steps: int,
    split: Split,
    extra: Mapping[str, Any],
) -> str:
    """Key of a training stage: its parent, its schedule, its data and its seed decide the result."""
    return fingerprint(
        {
            "kind": kind,
            "parent": parent.digest,
            "schedule": {name: value for name, value in schedule.content().items() if name not in _NOT_A_RESULT},
            "steps": steps,
            "queue": [profile.data.queue_length, profile.data.drop_one_frame],
            "quantization": profile.quantization.content(),
            "data": split.digest,
            "seed": profile.seed,
            **extra,
        }
    )


_NOT_A_RESULT = ("stages", "steps_per_stage", "evaluate_each_stage")  # `steps` and `parts` say what they lead to


def newest(kind: str, *, profile: Profile, store: Store, before: str) -> Artifact:
    """The newest artifact of a kind made with this profile and model.

    Raises:
        MissingArtifact: There is none; the sentence names the command that makes it.
    """
    artifact = store.last(kind, profile=profile.name, model=profile.model.name)
    if artifact is None:
        raise MissingArtifact(
            f"{store.root} holds no {kind} artifact of profile {profile.name}, model {profile.model.name}: "
            f"run `qdbev {before} --profile {profile.name} --model {profile.model.name}` first"
        )
    return artifact
