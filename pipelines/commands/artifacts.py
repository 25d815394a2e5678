"""What is in the store, as plain dicts: list, show, verify."""

from __future__ import annotations

from typing import Any

from pipelines.store.artifacts import DamagedArtifact, Store


def list_all(store: Store) -> dict[str, Any]:
    """One row per artifact, oldest first; damaged ones at the end, with the reason.

    Returns:
        The result dict of a command: ``tables``, ``messages``, ``artifacts``.
    """
    found = store.list()
    rows = [_row(artifact.summary(), size=_size(artifact.manifest.files)) for artifact in found]
    readable = {artifact.path for artifact in found}
    broken = [folder for folder in store.folders() if folder not in readable]
    rows += [["?", folder.name, "damaged", "", str(folder)] for folder in broken]
    headers = ["kind", "name", "digest", "MB", "path"]
    message = f"{len(found)} artifacts in {store.root}" + (f", {len(broken)} damaged" if broken else "")
    return {
        "artifact": None,
        "artifacts": [artifact.summary() for artifact in found],
        "tables": [{"title": "Artifacts", "headers": headers, "rows": rows, "notes": []}] if rows else [],
        "messages": [message],
    }


def show(store: Store, *, ref: str) -> dict[str, Any]:
    """The manifest of one artifact, verified.

    Raises:
        MissingArtifact: If there is none of that name.
        DamagedArtifact: If it is damaged.
    """
    artifact = store.open(ref)
    manifest = artifact.manifest
    rows = [[name, sealed.bytes, sealed.sha256[:12]] for name, sealed in sorted(manifest.files.items())]
    facts: list[list[Any]] = [
        ["kind", manifest.kind],
        ["name", manifest.name],
        ["digest", artifact.digest],
        ["key", manifest.key],
    ]
    facts += [["created", manifest.record.created], ["seed", manifest.seed]]
    facts += [[f"parent {role}", digest] for role, digest in sorted(manifest.parents.items())]
    facts += [[name, value] for name, value in _flat(manifest.metrics)]
    return {
        "artifact": artifact.summary(),
        "manifest": manifest.model_dump(mode="json") | {"digest": artifact.digest},
        "metrics": manifest.metrics,
        "tables": [
            {"title": artifact.path.name, "headers": ["", ""], "rows": facts, "notes": list(manifest.notes)},
            {"title": "Files", "headers": ["file", "bytes", "sha256"], "rows": rows, "notes": []},
        ],
        "messages": [f"sound: {artifact.path}"],
    }


def verify(store: Store, *, refs: tuple[str, ...] = ()) -> dict[str, Any]:
    """Check every byte of the named artifacts, or of all.

    Returns:
        The result dict of a command; ``damaged`` lists the sentences of those that are refused.

    Raises:
        MissingArtifact: If a named one does not exist.
    """
    rows, damaged = [], []
    for ref in refs or tuple(str(folder) for folder in store.folders()):
        try:
            artifact = store.open(ref)
            rows.append([artifact.path.name, "sound", artifact.digest[:12]])
        except DamagedArtifact as error:
            damaged.append(str(error))
            rows.append([ref.rstrip("/").rpartition("/")[2], "REFUSED", ""])
    sound = len(rows) - len(damaged)
    return {
        "artifact": None,
        "damaged": damaged,
        "tables": [{"title": "Verified", "headers": ["artifact", "state", "digest"], "rows": rows, "notes": []}],
        "messages": [f"{sound} of {len(rows)} artifacts are sound"],
    }


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
