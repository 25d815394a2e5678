"""artifacts: what is in the store; list, show, verify, remove, clear, measure."""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.lineage.agreement import check_agreement
from pipelines.lineage.inventory import Entry, inventory, orphans, scored_model, stage, standing_on
from pipelines.lineage.kinds import PACKED, QUANTIZED, WEIGHTS
from pipelines.reporting.outcome import Outcome
from pipelines.store.artifacts import Artifact, DamagedArtifact, MissingArtifact, Store
from pipelines.store.events import EVENTS, event_folders, events_of, lost_events
from pipelines.store.naming import moment
from pipelines.store.removing import bytes_below, old_scratch, remove_folder
from profiles.manifest import Manifest
from profiles.wording import counted, did_you_mean
from qdbev.reporting.tables.rounding import disk_text
from qdbev.reporting.tables.table import Table, plain_table

_HEADS = ["kind", "stage", "name", "NDS", "age", "size", "digest"]
_KEYS = ["kind", "stage", "name", "NDS", "age", "bytes", "digest"]
_RULES = {"bytes": disk_text}
_NAMED = 3
_PROGRAM = "qdbev"
_CENTURY_MIN = 100 * 365 * 24 * 60


def list_all(store: Store) -> Outcome:
    """One row per artifact, oldest first; damaged ones at the end.

    Returns:
        The command's outcome; its details hold ``artifacts``: of each that is not damaged its names, ``stage``,
        ``created``, ``bytes`` and scores.
    """
    refuse_no_store(store)
    entries = inventory(store)
    rows = [_row(entry) for entry in entries]
    paths = {entry.artifact.path for entry in entries}
    damaged = [folder for folder in store.folders() if folder not in paths]
    rows += [["?", "damaged", folder.name, None, "", None, ""] for folder in damaged]
    total = sum(entry.bytes for entry in entries)
    message = f"{counted(len(entries), 'artifact')} in {store.root}, {disk_text(total)}"
    table = plain_table("artifacts", title="Artifacts", headers=_HEADS, rows=rows, keys=_KEYS, rules=_RULES)
    return Outcome(
        tables=[table] if rows else [],
        messages=[message + (f", {len(damaged)} damaged" if damaged else "")],
        details={"artifacts": [_details(entry) for entry in entries], "bytes": total},
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
        tables=[_facts_table(artifact, store=store), _files_table(artifact), *_bytes_tables(artifact)],
        metrics=manifest.metrics,
        messages=[f"sound: {artifact.path}"],
        details={"manifest": manifest.model_dump(mode="json") | {"digest": artifact.digest}},
    )


def _facts_table(artifact: Artifact, *, store: Store) -> Table:
    manifest = artifact.manifest
    model = scored_model(artifact, store=store)
    rows: list[tuple[str, Any]] = [
        ("kind", manifest.kind),
        ("name", manifest.name),
        *([("stage", named)] if (named := stage(artifact)) else []),
        *([("model scored", f"{stage(model)}: {model.path.name}")] if model else []),
        *([("command", shlex.join(command))] if (command := _command(manifest)) else []),
        ("digest", artifact.digest),
        ("key", manifest.key),
        ("created", manifest.record.created),
        ("seed", manifest.seed),
        *((f"parent {role}", digest) for role, digest in sorted(manifest.parents.items())),
        *_flat(manifest.metrics),
    ]
    keys = ("name", "value")
    return plain_table("facts", title=artifact.path.name, headers=["", ""], rows=rows, keys=keys, notes=manifest.notes)


def _command(manifest: Manifest) -> list[str]:
    """The command line that made it, with the program's name alone."""
    program, *words = manifest.record.command or [""]
    name = Path(program).name
    return [_PROGRAM if name == "__main__.py" else name, *words] if program else []  # python -m, as torchrun starts it


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
    refuse_no_store(store)
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
    message = f"{sound} of {counted(len(rows), 'artifact')} {'is' if len(rows) == 1 else 'are'} sound"
    return Outcome(tables=[table], messages=[message], details={"damaged": damaged}, ok=not damaged)


def remove(store: Store, *, refs: tuple[str, ...], with_children: bool = False, dry_run: bool = False) -> Outcome:
    """Remove artifacts; what others were made from only together with these.

    Args:
        store: Holds them.
        refs: As ``show`` takes them.
        with_children: Remove what stands on them, too.
        dry_run: Say what would be removed.

    Raises:
        ValueError: Something stands on one of them.
        MissingArtifact: If a named one does not exist.
    """
    sealed = store.list()
    wanted = [store.locate(ref) for ref in refs]
    named = [artifact for artifact in sealed if artifact.path in wanted]
    children = standing_on(named, sealed=sealed)
    if children and not with_children:
        names = ", ".join(child.path.name for child in children[:_NAMED])
        more = f" and {len(children) - _NAMED} more" if len(children) > _NAMED else ""
        raise ValueError(f"{names}{more} stand on it: --with-children removes them too")
    return _removed([*wanted, *(child.path for child in children)], dry_run=dry_run)


def clear(store: Store, *, days: float, dry_run: bool = False) -> Outcome:
    """Remove what nothing can use: artifacts whose parents are gone, and old remains of trainings."""
    refuse_no_store(store)
    lost = lost_events(store.root, artifacts=store.folders(), days=days)
    folders = [*(artifact.path for artifact in orphans(store)), *old_scratch(store.root, days=days), *lost]
    return _removed(folders, dry_run=dry_run)


def measure(store: Store) -> Outcome:
    """Bytes by kind, of resume state, and of what TensorBoard reads."""
    refuse_no_store(store)
    entries = inventory(store)
    sizes: dict[str, list[int]] = {}
    for entry in entries:
        sizes.setdefault(entry.artifact.manifest.kind, []).append(entry.bytes)
    rows: list[list[Any]] = [[kind, len(listed), sum(listed)] for kind, listed in sorted(sizes.items())]
    beside = {"resume state": old_scratch(store.root, days=0.0), "TensorBoard": event_folders(store.root)}
    rows += [[name, len(listed), sum(map(bytes_below, listed))] for name, listed in beside.items()]
    rows.append(["all", sum(row[1] for row in rows), sum(row[2] for row in rows)])
    heads, keys = ["kind", "count", "size"], ["kind", "count", "bytes"]
    return Outcome(tables=[plain_table("sizes", title="Sizes", headers=heads, rows=rows, keys=keys, rules=_RULES)])


def _removed(named: Sequence[Path], *, dry_run: bool) -> Outcome:
    """Remove folders; the events of an artifact go with it."""
    folders = [path for folder in named for path in (folder, events_of(folder)) if path is folder or path.is_dir()]
    size = sum(map(bytes_below, folders))
    if dry_run:
        return Outcome(would_do=[f"remove {folder}" for folder in folders] or ["nothing"], details={"bytes": size})
    for folder in folders:
        remove_folder(folder)
    names = [f"{EVENTS}/{folder.name}" if folder.parent.name == EVENTS else folder.name for folder in folders]
    message = f"removed {counted(len(names), 'folder')}, {disk_text(size)}" if names else "there is nothing to remove"
    return Outcome(messages=[*(f"removed {name}" for name in names), message], details={"removed": names})


def _check_files(artifact: Artifact) -> None:
    from pipelines.assembly.quantized_files import check_quantized  # safetensors and numpy come with it

    check_quantized(artifact)
    check_agreement(artifact)


def _row(entry: Entry) -> list[Any]:
    manifest, nds = entry.artifact.manifest, entry.scores.get("NDS")
    shown = None if nds is None else round(float(nds), 4)
    return [manifest.kind, entry.stage, manifest.name, shown, _age(manifest), entry.bytes, entry.artifact.digest[:12]]


def _details(entry: Entry) -> dict[str, Any]:
    created = entry.artifact.manifest.record.created
    return {
        **entry.artifact.summary(),
        "stage": entry.stage,
        "created": created,
        "bytes": entry.bytes,
        "NDS": entry.scores.get("NDS"),
        "mAP": entry.scores.get("mAP"),
    }


def _age(manifest: Manifest) -> str:
    """How long ago an artifact was sealed; empty where it says nothing that can be."""
    minutes = (datetime.datetime.now(datetime.UTC) - moment(manifest)).total_seconds() / 60
    for unit, length in (("d", 24 * 60), ("h", 60), ("min", 1)):
        if minutes >= length:
            return "" if minutes > _CENTURY_MIN else f"{minutes / length:.0f} {unit}"
    return "now"


def refuse_no_store(store: Store) -> None:
    """Refuse a store that is not there, but for the one that commands make where none is named.

    Raises:
        MissingArtifact: There is no such folder.
    """
    if store.root.exists() or store.root == Path("runs"):
        return
    beside = [path.name for path in store.root.absolute().parent.glob("*") if path.is_dir()]
    raise MissingArtifact(f"there is no store {store.root}{did_you_mean(store.root.name, beside)}")


def _flat(metrics: Any, *, prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in metrics.items():
        dotted = f"{prefix}{name}"
        rows += _flat(value, prefix=f"{dotted}.") if isinstance(value, dict) else [(dotted, value)]
    return rows
