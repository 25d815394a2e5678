"""data: synth makes a synthetic data set in nuScenes format, prepare checks and reads one's own nuScenes."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.reporting.outcome import Outcome
from pipelines.store.integrity import reading_data
from pipelines.store.locations import SYNTHETIC, synthetic_root
from profiles import Profile
from profiles.home import expanded
from profiles.sections.rig import NUSCENES_RIG, RigProfile
from qdbev.data.nuscenes.findings import Finding, counted, errors_of, first_of_each
from qdbev.reporting.tables.table import Table, plain_table

if TYPE_CHECKING:
    from qdbev.data.nuscenes.inspection import Inspection, Source
    from qdbev.data.nuscenes.records import Sample
    from qdbev.data.nuscenes.usage import Use

_COUNTS = ["scenes", "key frames", "boxes", "boxes that count", "scenes with CAN bus"]
_SHOWN_FINDINGS = 3
ALL_TRAIN, ALL_VAL = 700, 150  # the scene names of nuscenes-devkit's own splits


def synth(
    profile: Profile,
    *,
    out: Path | None = None,
    dry_run: bool = False,
    progress: bool = True,
) -> Outcome:
    """Generate the scenes of a profile's data section; goes on where it was interrupted.

    Args:
        profile: Its data section says how many scenes, their size and seed.
        out: Folder of the data set; None takes the cache that the other commands read.
        dry_run: Say what would be done.
        progress: Show a bar.
    """
    from pipelines.assembly.scene import vehicle_of  # slow to import
    from qdbev.data.synthetic import generate

    data = profile.data
    root = expanded(out or synthetic_root(data))
    train = ALL_TRAIN if data.train_scenes is None else data.train_scenes
    val = ALL_VAL if data.val_scenes is None else data.val_scenes
    width, height = data.image_size_px
    if dry_run:
        return Outcome(would_do=[f"generate {train} train and {val} val scenes of {width}x{height} images in {root}"])
    with reading_data():
        summary = generate(
            root,
            version=data.version,
            train_scenes=train,
            val_scenes=val,
            seed=data.seed,
            image_size_px=data.image_size_px,
            key_frames=data.key_frames,
            sweeps=data.sweeps,
            vehicle=vehicle_of(data.rig),
            progress=progress,
        )
    rows = [[summary.train_scenes, summary.val_scenes, summary.samples, summary.annotations, summary.size_bytes / 1e6]]
    headers = ["train scenes", "val scenes", "samples", "boxes", "MB"]
    return Outcome(
        tables=[plain_table("data", title="Data set", headers=headers, rows=rows)],
        metrics={"samples": summary.samples, "annotations": summary.annotations, "digest": summary.digest},
        messages=[f"nuScenes-format data set of version {data.version}: {root}"],
    )


def prepare(
    profile: Profile,
    *,
    dry_run: bool = False,
    progress: bool = True,
) -> Outcome:
    """Check a nuScenes tree and read its key frames into the cache, split by split.

    Args:
        profile: Its data section names the folder and the version; all scenes are read, whatever it limits.
        dry_run: Say what would be done.
        progress: Show bars.

    Raises:
        ValueError: Tables or images are missing, with counts.
    """
    from pipelines.assembly.samples import own_source, reads_lidar  # slow to import
    from qdbev.data.nuscenes.tables import split_scenes

    data = profile.data
    if data.source == SYNTHETIC:
        raise ValueError("data prepare reads a nuScenes folder of yours: name it with --root")
    root = expanded(data.source)
    splits = split_scenes(data.version, root=root)
    if dry_run:
        return Outcome(would_do=[f"check {root / data.version} and read its splits {' and '.join(splits)}"])
    with reading_data():
        source = own_source(data)
        seen = _inspections(source, splits=splits, lidar=reads_lidar(profile.model), progress=progress)
    findings = list(dict.fromkeys(finding for inspection in seen.values() for finding in inspection.findings))
    details = {"findings": [asdict(finding) for finding in findings]}
    shown = [findings_table(findings)] if findings else []
    if errors := errors_of(findings):
        kinds = ", ".join(f"{code} {count}" for code, count in counted(errors).items())
        messages = [f"not ready: {len(errors)} error{'' if len(errors) == 1 else 's'} ({kinds}); --json lists all"]
        return Outcome(tables=shown, messages=messages, details=details, ok=False)
    contents = _contents(source, seen=seen)
    rows = [_counts(name, inspection.samples, root=root) for name, inspection in seen.items()]
    ready = f"ready; next: qdbev {_next(profile)} --set data.source={shlex.quote(str(root))}"
    return Outcome(
        tables=[
            plain_table("data", title=f"nuScenes {data.version}", headers=["split", *_COUNTS], rows=rows),
            *shown,
            contents_table(contents),
        ],
        metrics={row[0]: dict(zip(_COUNTS, row[1:], strict=True)) for row in rows},
        messages=[*_absent(seen, rig=data.rig), _motion(rows), f"{ready} --set data.version={data.version}"],
        details=details | {"contents": [asdict(use) for use in contents]},
    )


def _contents(source: Source, *, seen: Mapping[str, Inspection]) -> list[Use]:
    from qdbev.data.nuscenes.usage import uses

    samples = [sample for inspection in seen.values() for sample in inspection.samples]
    return uses(source.root / source.version, layout=source.layout, sensors=source.rows()["sensor"], samples=samples)


def contents_table(contents: Sequence[Use]) -> Table:
    """Tables and sensors that are not used, or not whole."""
    rows = [[use.code, use.name, use.sentence, use.number] for use in contents if not use.code.endswith("-used")]
    notes = [f"{len(contents) - len(rows)} tables and sensors are used; --json lists all under contents"]
    headers = ["code", "what", "why", "number that moves"]
    return plain_table("contents", title="Not used, or not whole", headers=headers, rows=rows, notes=notes)


def _absent(seen: Mapping[str, Inspection], *, rig: RigProfile) -> list[str]:
    """A sentence for each split with ground truth that has none of some classes."""
    from pipelines.scoring.absent import best_sentence

    sentences = []
    for name, inspection in seen.items():
        rows = [sample["instances"] for sample in inspection.samples]
        there = {int(label) for row in rows for label in row["bbox_label_3d"][row["bbox_3d_isvalid"]]}
        absent = [one for label, one in enumerate(rig.class_names) if label not in there]
        if there and absent:
            sentences.append(best_sentence(absent, rig=rig, split=name))
    return sentences


def _next(profile: Profile) -> str:
    """What to do with the data: nuScenes' has detectors, another rig's wants one."""
    if profile.data.rig == NUSCENES_RIG:
        return "evaluate --profile float --model tiny"
    stated = [word.partition("=")[2] for word in profile.overrides if word.startswith("data.rig=")]
    rig = shlex.quote([profile.data.rig.name, *stated][-1])
    return f"train-float --profile float --model nano --set data.rig={rig}"


def _inspections(
    source: Source, *, splits: Mapping[str, Sequence[str]], lidar: bool, progress: bool
) -> dict[str, Inspection]:
    """What is seen of each split whose scenes are there; its first errors end it."""
    from pipelines.assembly.samples import present_scenes
    from qdbev.data.nuscenes.inspection import inspected

    seen = {}
    for name in splits:
        scenes = present_scenes(source.root, version=source.version, name=name)
        seen[name] = inspected(source, scenes=scenes, lidar=lidar, progress=progress)
    return seen


def findings_table(findings: Sequence[Finding]) -> Table:
    """The first findings of each kind, errors before warnings, with their number."""
    ordered = sorted(findings, key=lambda finding: not finding.error)
    rows = [
        ["error" if finding.error else "warning", finding.code, finding.table, finding.sentence]
        for finding in first_of_each(ordered, count=_SHOWN_FINDINGS)
    ]
    notes = [f"{code}: {count} in all" for code, count in counted(ordered).items() if count > _SHOWN_FINDINGS]
    headers = ["kind", "code", "table", "what"]
    return plain_table("findings", title="Findings", headers=headers, rows=rows, notes=notes)


def _counts(name: str, samples: Sequence[Sample], *, root: Path) -> list[Any]:
    from qdbev.data.nuscenes.motion import without_messages

    scenes = dict.fromkeys(sample["scene"] for sample in samples)
    boxes = sum(len(sample["instances"]["bbox_label_3d"]) for sample in samples)
    counting = sum(int(sample["instances"]["bbox_3d_isvalid"].sum()) for sample in samples)
    with_messages = sum(not without_messages(root, scene=scene) for scene in scenes)
    return [name, len(scenes), len(samples), boxes, counting, with_messages]


def _motion(rows: Sequence[Sequence[Any]]) -> str:
    scenes, with_messages = sum(row[1] for row in rows), sum(row[-1] for row in rows)
    sentence = f"motion of {with_messages} of {scenes} scenes from the CAN bus"
    if with_messages == scenes:
        return sentence
    return (
        sentence + ", of the others from ego poses (unpack the CAN bus expansion beside samples/ for BEVFormer's own)"
    )
