"""The table of bytes of a quantized detector's file: by part, and what lies in pointwise layers."""

from __future__ import annotations

import json
from typing import Any

from safetensors import safe_open

from pipelines.lineage.kinds import PACKED, STRUCTURE, WEIGHTS
from pipelines.store.artifacts import Artifact
from pipelines.store.tensors import check_safetensors
from qdbev.export.packed import CONFIG, Sizes, sizes_of
from qdbev.quantization import Plan
from qdbev.reporting.tables.table import Table, plain_table

_KINDS = ("integers", "scales", "shapes", "rest")
_SHAPE = "_shape"


def bytes_table(artifact: Artifact) -> Table:
    """Bytes of a packed file by part of the detector.

    Args:
        artifact: It holds a detector all parts of which are quantized.
    """
    path = artifact.file(WEIGHTS)
    entries = check_safetensors(path)
    with safe_open(path, framework="numpy") as file:
        shapes = {
            name.removesuffix(_SHAPE): file.get_tensor(name).tolist() for name in entries if name.endswith(_SHAPE)
        }
    tensors = {name: entry.stop - entry.begin for name, entry in entries.items()}
    sizes = sizes_of(tensors, shapes=shapes, plan=_plan(artifact))
    return _table(sizes, whole=path.stat().st_size)


def _table(sizes: Sizes, *, whole: int) -> Table:
    rows: list[list[Any]] = [[part, *kinds.values(), sum(kinds.values())] for part, kinds in sizes.parts.items()]
    columns = list(zip(*rows, strict=True))[1:]
    header = whole - sum(columns[-1])
    rows += [["header", "", "", "", "", header], ["all", *(sum(column) for column in columns[:-1]), whole]]
    note = f"{sizes.pointwise_share:.1%} of the integers lie in 1x1 convolutions and linear layers."
    title = f"Bytes of {WEIGHTS}"
    return plain_table("bytes", title=title, headers=["part", *_KINDS, "bytes"], rows=rows, notes=[note])


def _plan(artifact: Artifact) -> Plan:
    if artifact.manifest.kind == PACKED:
        config = json.loads(artifact.file(CONFIG).read_text(encoding="ascii"))
        return Plan.from_json(config["qdbev"]["structure"]["plan"])
    return Plan.from_json(json.loads(artifact.file(STRUCTURE).read_text(encoding="utf-8"))["plan"])
