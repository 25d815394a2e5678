"""mmcv's operators as seven large C++ files instead of 77, because torch's headers are most of what is compiled.

A unit is a file that includes sources one after the other, unchanged. Sources that define the same names stand in
different units. That is known of one source package alone, so another one is compiled as it comes. Standard library
only.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

CSRC = Path("mmcv", "ops", "csrc", "pytorch")
KNOWN = "ecd20843fb78aab987c55831b0038711d0a5efcc96a6b007ac2ff2d38051c36e"
"""Of the sources that these units were made for; see ``fingerprint``."""
PYBIND = "pybind.cpp"
"""The table of operators: it declares what the others define, and is a unit by itself."""
CPU_UNITS = (
    ("roi_align", "active_rotated_filter", "bbox_overlaps_cpu", "sparse_indice"),
    ("roi_align_rotated", "box_iou_quadri", "box_iou_rotated", "sparse_maxpool"),
    ("rotated_feature_align", "nms", "nms_quadri", "nms_rotated", "sparse_reordering"),
    ("bezier_align", "pixel_group", "psamask"),  # psamask makes min and max macros: the last one
    ("deform_conv", "modulated_deform_conv", "points_in_boxes", "voxelization"),
)
"""Sources of the folder ``cpu`` that share a unit."""
_FIRST = "#include <torch/extension.h>\n"


def fingerprint(source: Path) -> str:
    """The sha256 of names and bytes of all sources that would be compiled for a CPU."""
    digest = hashlib.sha256()
    for file in _sources(source):
        digest.update(f"{file.relative_to(source).as_posix()}\n{file.stat().st_size}\n".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def operator_names(source: Path) -> set[str]:
    """Names of the operators that the sources define for Python."""
    text = (source / CSRC / PYBIND).read_text(encoding="utf-8")
    return set(re.findall(r'm\.def\("(\w+)"', text))


def in_units(source: Path, *, folder: Path) -> Path | None:
    """A copy of mmcv's source package in which the sources stand in units.

    Args:
        source: The unpacked source package.
        folder: Where the copy goes; one that is there is kept as it is, with what was compiled of it.

    Returns:
        The copy, or None if the sources are not those that the units were made for.
    """
    if fingerprint(source) != KNOWN:
        return None
    if not folder.exists():
        part = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(source, part)
        for unit, members in units(source).items():
            _write_unit(part / unit, members=[part / member for member in members])
        part.rename(folder)
    return folder


def units(source: Path) -> dict[Path, list[Path]]:
    """Unit -> sources in it, all relative to the source package."""
    general = [CSRC / file.name for file in sorted((source / CSRC).glob("*.cpp")) if file.name != PYBIND]
    cpu = {
        CSRC / "cpu" / f"unit_{index}.cpp": [CSRC / "cpu" / f"{name}.cpp" for name in names]
        for index, names in enumerate(CPU_UNITS)
    }
    return {CSRC / "unit.cpp": general, **cpu}


def _sources(source: Path) -> list[Path]:
    return sorted([*(source / CSRC).glob("*.cpp"), *(source / CSRC / "cpu").glob("*.cpp")])


def _write_unit(unit: Path, *, members: list[Path]) -> None:
    """Include the members; they are renamed, because mmcv compiles every ``.cpp`` of the folder."""
    for member in members:
        member.rename(member.with_suffix(".cxx"))
    unit.write_text(_FIRST + "".join(f'#include "{member.stem}.cxx"\n' for member in members), encoding="utf-8")
