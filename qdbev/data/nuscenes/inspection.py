"""A nuScenes tree looked at before it is used: its structure, the meaning of the scenes in use, the files behind them.

What was looked at is remembered beside the parsed samples: the tables by their digest, files by their state.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from nuscenes import NuScenes

from qdbev.data.nuscenes.checks.boxes import box_findings
from qdbev.data.nuscenes.checks.can_bus import can_bus_findings
from qdbev.data.nuscenes.checks.scenes import chain_of, scene_findings
from qdbev.data.nuscenes.checks.sensors import places_of, sensor_findings
from qdbev.data.nuscenes.checks.structure import structure_findings
from qdbev.data.nuscenes.contents import look_into_files
from qdbev.data.nuscenes.findings import Finding, errors_of
from qdbev.data.nuscenes.layout import NUSCENES, Layout
from qdbev.data.nuscenes.records import Sample, read_samples
from qdbev.data.nuscenes.sample_cache import cache_key
from qdbev.data.nuscenes.tables import available_scenes, choose_scenes, open_tables, read_tables

FORMAT = 2


@dataclass(frozen=True)
class Inspection:
    """What was seen."""

    samples: list[Sample]
    """Records of ``read_samples`` with the digests of their files; none where there is an error in the tables."""
    findings: tuple[Finding, ...]
    """Errors and warnings."""


class Source:
    """A tree whose tables are read at most once, however many splits are asked of it."""

    def __init__(self, root: Path, *, version: str, cache: Path, layout: Layout = NUSCENES) -> None:
        self.root, self.version, self.cache, self.layout = root, version, cache, layout
        self.rows = lru_cache(maxsize=1)(lambda: read_tables(root, version=version, tables=layout.tables))
        self.structure = lru_cache(maxsize=1)(
            lambda: structure_findings(self.rows(), root=root, maps="map" in layout.tables)
        )
        self.tables: Callable[[], NuScenes] = lru_cache(maxsize=1)(
            lambda: open_tables(root, version=version, rows=self.rows())
        )


def inspected(source: Source, *, scenes: Sequence[str], lidar: bool, progress: bool = False) -> Inspection:
    """Look at some scenes and read their samples.

    Args:
        source: The tree.
        scenes: Names of scenes.
        lidar: Whether LiDAR files are read, too.
        progress: Show bars.

    Raises:
        ValueError: A table or a camera file is missing, or a table is no JSON.
    """
    root, cache = source.root, source.cache
    names = choose_scenes(available_scenes(root, version=source.version), wanted=scenes)
    key = cache_key(root, version=source.version, scenes=names, layout=source.layout)
    path = cache / f"findings{FORMAT}-{key}.json"
    findings = _remembered(path)
    if findings is None:
        findings = _findings(source, scenes=names)
        if not errors_of(findings):
            _remember(findings, path=path)
    if errors_of(findings):
        return Inspection([], tuple(findings))
    samples = read_samples(
        root,
        version=source.version,
        scenes=names,
        cache=cache,
        tables=source.tables,
        layout=source.layout,
        progress=progress,
    )
    files = look_into_files(samples, root=root, cache=cache, lidar=lidar, progress=progress)
    return Inspection(samples, (*findings, *files))


def _findings(source: Source, *, scenes: Sequence[str]) -> list[Finding]:
    if structure := source.structure():
        return structure
    tables = source.tables()
    by_name = {row["name"]: row for row in tables.scene}
    rows = [by_name[name] for name in scenes]
    found = list(scene_findings(tables, scenes=rows))
    if errors_of(found):
        return found
    chains = [chain_of(tables, scene=row) for row in rows]
    found += sensor_findings(tables, chains=chains, layout=source.layout)
    if any(chains):
        found += box_findings(tables, samples=[sample for chain in chains for sample in chain], layout=source.layout)
    if not errors_of(found):
        for row, chain in zip(rows, chains, strict=True):
            times, places = (
                [sample["timestamp"] for sample in chain],
                places_of(tables, chain=chain, clock=source.layout.clock),
            )
            found += can_bus_findings(source.root, scene=row["name"], times_us=times, places=places)
    return found


def _remembered(path: Path) -> list[Finding] | None:
    try:
        return [Finding(**entry) for entry in json.loads(path.read_bytes())]
    except (OSError, ValueError, TypeError):
        return None


def _remember(findings: Sequence[Finding], *, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps([asdict(finding) for finding in findings]))
    draft.replace(path)
