"""artifacts: what is in the store; list, show, verify."""

from __future__ import annotations

from typing import Any

from pipelines.lineage.agreement import check_agreement
from pipelines.lineage.kinds import PACKED, QUANTIZED, WEIGHTS
from pipelines.reporting.outcome import Outcome
from pipelines.store.artifacts import Artifact, DamagedArtifact, Store
from qdbev.reporting.tables.table import Table, plain_table


def list_all(store: Store) -> Outcome:
    """One row per artifact, oldest first; damaged ones at the end.

    Returns:
        The command's outcome; its details hold ``artifacts``, the summaries of all that are not damaged.
    """
    readable = store.list()
    rows = [_row(artifact.summary(), size=_size(artifact.manifest.files)) for artifact in readable]
    paths = {artifact.path for artifact in readable}
    damaged = [folder for folder in store.folders() if folder not in paths]
    rows += [["?", folder.name, "damaged", "", str(folder)] for folder in damaged]
    table = plain_table("artifacts", title="Artifacts", headers=["kind", "name", "digest", "MB", "path"], rows=rows)
    message = f"{len(readable)} artifacts in {store.root}" + (f", {len(damaged)} damaged" if damaged else "")
    return Outcome(
        tables=[table] if rows else [],
        messages=[message],
        details={"artifacts": [artifact.summary() for artifact in readable]},
    )


def show(store: Store, *, ref: str) -> Outcome:
    """The manifest of one artifact, verified.

    Returns:
        The command's outcome; its details hold the whole ``manifest``.

    Raises:
        MissingArtifact: If there is none of that name.
        DamagedArtifact: If it is damaged.
    """
    artifact = store.open(ref)
    manifest = artifact.manifest
    return Outcome(
        artifact,
        tables=[_facts_table(artifact), _files_table(artifact), *_bytes_tables(artifact)],
        metrics=manifest.metrics,
        messages=[f"sound: {artifact.path}"],
        details={"manifest": manifest.model_dump(mode="json") | {"digest": artifact.digest}},
    )


def _facts_table(artifact: Artifact) -> Table:
    manifest = artifact.manifest
    rows: list[tuple[str, Any]] = [
        ("kind", manifest.kind),
        ("name", manifest.name),
        ("digest", artifact.digest),
        ("key", manifest.key),
        ("created", manifest.record.created),
        ("seed", manifest.seed),
        *((f"parent {role}", digest) for role, digest in sorted(manifest.parents.items())),
        *_flat(manifest.metrics),
    ]
    keys = ("name", "value")
    return plain_table("facts", title=artifact.path.name, headers=["", ""], rows=rows, keys=keys, notes=manifest.notes)


def _files_table(artifact: Artifact) -> Table:
    files = sorted(artifact.manifest.files.items())
    rows = [[name, sealed.bytes, sealed.sha256[:12]] for name, sealed in files]
    return plain_table("files", title="Files", headers=["file", "bytes", "sha256"], rows=rows)


def _bytes_tables(artifact: Artifact) -> list[Table]:
    """What the bytes of a file of packed weights are; nothing where it holds none."""
    if WEIGHTS not in artifact.manifest.files or artifact.manifest.kind not in (*QUANTIZED, PACKED):
        return []
    from pipelines.exporting.sizes import bytes_table  # torch comes with it

    return [bytes_table(artifact)]


def verify(store: Store, *, refs: tuple[str, ...] = ()) -> Outcome:
    """Check every byte of the named artifacts, or of all, look into their tensors, and compare their files.

    Returns:
        The command's outcome; its details hold ``damaged``, the sentences about those that are refused.

    Raises:
        MissingArtifact: If a named one does not exist.
    """
    rows, damaged = [], []
    for ref in refs or tuple(str(folder) for folder in store.folders()):
        try:
            artifact = store.open(ref)
            _check_files(artifact)
            rows.append([artifact.path.name, "sound", artifact.digest[:12]])
        except DamagedArtifact as error:
            damaged.append(str(error))
            rows.append([ref.rstrip("/").rpartition("/")[2], "REFUSED", ""])
    sound = len(rows) - len(damaged)
    table = plain_table("verified", title="Verified", headers=["artifact", "state", "digest"], rows=rows)
    message = f"{sound} of {len(rows)} artifacts are sound"
    return Outcome(tables=[table], messages=[message], details={"damaged": damaged}, ok=not damaged)


def _check_files(artifact: Artifact) -> None:
    from pipelines.assembly.quantized_files import check_quantized  # safetensors and numpy come with it

    check_quantized(artifact)
    check_agreement(artifact)


def _row(summary: dict[str, str], *, size: int) -> list[Any]:
    return [summary["kind"], summary["name"], summary["digest"][:12], f"{size / 1e6:.2f}", summary["path"]]


def _size(files: Any) -> int:
    return sum(sealed.bytes for sealed in files.values())


def _flat(metrics: Any, *, prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in metrics.items():
        dotted = f"{prefix}{name}"
        rows += _flat(value, prefix=f"{dotted}.") if isinstance(value, dict) else [(dotted, value)]
    return rows
