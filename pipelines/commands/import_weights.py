"""import-weights: the float weights of a published or own checkpoint, checked tensor by tensor, as an artifact."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.assembly.job import Job
from pipelines.assembly.weights import fitted, imported, matched, missing_weights, remarks
from pipelines.lineage.stated import imported_weights
from pipelines.reporting.outcome import Outcome
from pipelines.store.artifacts import Artifact, Store
from pipelines.store.locations import SYNTHETIC, at_store
from profiles import Profile
from profiles.home import expanded, is_file
from qdbev.reporting.tables.table import Table, plain_table


def run(job: Job, *, file: Path, dry_run: bool = False) -> Outcome:
    """Read a checkpoint as data, compare it with the model strictly, seal it.

    Args:
        job: Its model section says what the file must hold; its name goes into the artifact's. An equal file that is
            sealed already is taken as it is.
        file: What ``torch.save`` or safetensors wrote, by any name: a state dict, alone or in a container.
        dry_run: Read and compare, seal nothing.

    Returns:
        The command's outcome with a table of what matched.

    Raises:
        UnusableInput: The file is missing, damaged, or holds no plain tensors by name.
        Misfit: It holds other tensors than the model; ``details`` names them all.
    """
    profile, path = job.stated, expanded(file)
    model = profile.model
    if not is_file(path):
        raise missing_weights(model.name, problem=f"there is no file {path}")
    if dry_run:
        detector, checkpoint = fitted(profile, path=path)
        return Outcome(
            tables=[_match(matched(detector))],
            messages=remarks(checkpoint, profile=profile),
            would_do=[f"seal {path} as the float weights of {model.name} in {job.store.root}"],
        )
    artifact = imported(job, path=path)
    counts: Any = artifact.manifest.data["matched"]
    return Outcome(
        artifact,
        tables=[_match(counts)],
        metrics={"matched": counts},
        messages=[*artifact.manifest.notes, _next(profile, artifact=artifact, store=job.store)],
    )


def _match(counts: Mapping[str, Mapping[str, int]]) -> Table:
    rows: list[list[Any]] = [[name, count["tensors"], count["elements"]] for name, count in counts.items()]
    rows.append(["all", sum(row[1] for row in rows), sum(row[2] for row in rows)])
    note = "none missing, none unknown, none of another shape or type"
    headers = ["module", "tensors", "numbers"]
    return plain_table("matched", title="Matched by name and shape", headers=headers, rows=rows, notes=[note])


def _next(profile: Profile, *, artifact: Artifact, store: Store) -> str:
    """How other commands are told to use it, and the next one with its data."""
    model = profile.model
    last = imported_weights(model.name, store=store)
    if model.weights is None and last is not None and last.digest == artifact.digest:
        source = "FOLDER" if profile.data.source == SYNTHETIC else shlex.quote(profile.data.source)
        words = f"--profile float --model {model.name} --set data.source={source}{at_store(store.root)}"
        return f"--model {model.name} means these weights from now on; next: qdbev evaluate {words}"
    taken = model.weights or "those imported later"
    return f"--model {model.name} means {taken}; to use these: --set model.weights={artifact.path.name}"
