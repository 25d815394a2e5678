"""Profile section ``data`` -> samples on disk: the synthetic scenes made on demand, or one's own nuScenes."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipelines.assembly.detector import Augmentation, kind_of
from pipelines.assembly.scene import vehicle_of
from pipelines.store import processes
from pipelines.store.integrity import reading_data
from pipelines.store.locations import SYNTHETIC, cache_folder, synthetic_root
from profiles.home import expanded
from profiles.sections.data import DataProfile
from profiles.sections.model import ModelProfile
from profiles.sections.rig import NUSCENES_RIG, RigProfile
from profiles.sections.schedule import Optimisation
from profiles.wording import counted
from qdbev.data.nuscenes.findings import notes_of, quoted, refuse_errors
from qdbev.data.nuscenes.inspection import Source, inspected
from qdbev.data.nuscenes.layout import Layout
from qdbev.data.nuscenes.motion import without_messages
from qdbev.data.nuscenes.records import Sample, read_samples
from qdbev.data.nuscenes.sample_cache import scene_digest
from qdbev.data.nuscenes.tables import OF_NUSCENES_ALONE, SPLITS, TABLES, available_scenes, split_scenes
from qdbev.data.queues.batches import Frames
from qdbev.data.synthetic import generate
from qdbev.data.synthetic.settings import KEY_FRAME_BYTES, KEY_FRAME_BYTES_PER_PIXEL

_LOG = logging.getLogger(__name__)
_ALL_SCENES = {"train": 700, "val": 150}
_SHOWN_NAMES = 5


@dataclass(frozen=True)
class Split:
    """Key frames of some scenes and where their files lie."""

    root: Path
    """Folder that holds the tables and images."""
    version: str
    """Name of the table folder."""
    samples: list[Sample]
    """Records of ``qdbev.data.nuscenes.records.read_samples``, scene after scene."""
    digest: str
    """sha256 over the records: equal scenes give an equal digest, wherever they lie."""
    further: tuple[Split, ...] = ()
    """Scenes of further seeds, for training alone."""
    notes: tuple[str, ...] = ()
    """What is odd about the data, in sentences."""
    rig: RigProfile = NUSCENES_RIG
    """Whose cameras and classes they are of."""

    @property
    def scenes(self) -> list[str]:
        """Scene names, in order."""
        return list(dict.fromkeys(sample["scene"] for sample in self.samples))

    def first_scenes(self, count: int) -> Split:
        """The same split cut to its first ``count`` scenes."""
        return self.only(self.scenes[:count])

    def only(self, scenes: Sequence[str]) -> Split:
        """The same split cut to some of its scenes."""
        wanted = set(scenes)
        samples = [sample for sample in self.samples if sample["scene"] in wanted]
        return replace(self, samples=samples, digest=scene_digest(samples), further=())


def load_split(data: DataProfile, *, name: str, lidar: bool = False, progress: bool = False) -> Split:
    """The samples of ``train`` or ``val`` (or a mini split), generated first where they are synthetic and missing.

    A data set of one's own is looked at before it is used, its files once; the digest covers their contents.

    Args:
        data: Which data, and how many scenes.
        name: Split of nuscenes-devkit.
        lidar: Whether the detector reads LiDAR files, which are then looked into, too.
        progress: Show bars.

    Raises:
        ValueError: If the data set is damaged, or holds no scene of the split.
    """
    with reading_data():
        return _read_split(data, name, lidar=lidar, progress=progress)


def reads_lidar(model: ModelProfile) -> bool:
    """Whether a detector reads LiDAR files."""
    return sensors(model)["use_lidar"]


def _read_split(data: DataProfile, name: str, *, lidar: bool, progress: bool) -> Split:
    if name.startswith("mini_") and not data.version.endswith("mini"):
        raise ValueError(f"split {name} belongs to version v1.0-mini, but data.version is {data.version}.")
    name = name.removeprefix("mini_")  # the version says which train and val are meant
    root = expanded(data.source)
    if data.source == SYNTHETIC:
        root = _generated(data, name=name, progress=progress)
    names = _scene_names(root, data=data, name=name)
    notes: list[str] = []
    if data.source == SYNTHETIC:
        cache = cache_folder(data) / "samples"
        layout = layout_of(data.rig)
        samples = read_samples(root, version=data.version, scenes=names, cache=cache, layout=layout, progress=progress)
    else:
        source = own_source(data)
        seen = inspected(source, scenes=names, lidar=lidar, progress=progress)
        refuse_errors(seen.findings, root=root)
        samples, notes = seen.samples, notes_of(seen.findings)
    if not samples:
        raise ValueError(
            f"none of {counted(len(names), 'scene')} of split {name} in {root} holds a key frame; unpack "
            "the tables again, or name another folder as data.source."
        )
    return Split(root, data.version, samples, scene_digest(samples), notes=tuple(notes), rig=data.rig)


def own_source(data: DataProfile) -> Source:
    """The nuScenes folder that the profile names."""
    return Source(
        expanded(data.source),
        version=data.version,
        cache=cache_folder(data) / "samples",
        layout=layout_of(data.rig),
    )


def layout_of(rig: RigProfile) -> Layout:
    """What is read of the tables of a rig's data."""
    return Layout(
        cameras=rig.cameras,
        classes=rig.class_names,
        categories=tuple((category, row.name) for row in rig.classes for category in sorted(row.categories)),
        attributes=rig.attributes,
        lidar=rig.lidar,
        tables=TABLES if rig.tables == "nuscenes" else tuple(name for name in TABLES if name not in OF_NUSCENES_ALONE),
        frame=rig.frame,
    )


def notes_on(split: Split) -> tuple[str, ...]:
    """Sentences for the manifest: what is odd about the data, and whether motion is not from the CAN bus.

    BEVFormer's own is.
    """
    lacking = sum(without_messages(split.root, scene=scene) for scene in split.scenes)
    if not lacking:
        return split.notes
    return (
        *split.notes,
        f"no CAN bus for {lacking} of {counted(len(split.scenes), 'scene')}: their motion is from ego poses",
    )


def with_more_seeds(split: Split, *, data: DataProfile, progress: bool = False) -> Split:
    """The training split and, as its ``further``, those of ``data.more_seeds``; its digest covers both."""
    if not data.more_seeds or data.source != SYNTHETIC:
        return split
    one_seed = data.model_copy(update={"more_seeds": ()})
    further = tuple(
        load_split(one_seed.model_copy(update={"seed": seed}), name="train", progress=progress)
        for seed in data.more_seeds
    )
    digests = "".join(part.digest for part in (split, *further))
    return replace(split, further=further, digest=hashlib.sha256(digests.encode()).hexdigest())


def _generated(data: DataProfile, *, name: str, progress: bool) -> Path:
    """The tree with the scenes of one split; never shrinks what another command or a larger data set uses."""
    root = synthetic_root(data)
    wanted = data.train_scenes if name == "train" else data.val_scenes
    count = {"train": 0, "val": 0} | {name: _ALL_SCENES[name] if wanted is None else wanted}

    missing = scenes_to_make(data, splits=[name])

    def make() -> None:
        if missing:
            size = f"{missing * scene_bytes(data) / 1e6:.0f} MB"
            _LOG.info("making %s in %s, about %s, kept for other runs", counted(missing, "synthetic scene"), root, size)
        generate(
            root,
            version=data.version,
            train_scenes=count["train"],
            val_scenes=count["val"],
            seed=data.seed,
            image_size_px=data.image_size_px,
            key_frames=data.key_frames,
            sweeps=data.sweeps,
            vehicle=vehicle_of(data.rig),
            grow_only=True,
            progress=progress,
        )

    processes.agreed(make)
    return root


def scenes_to_make(data: DataProfile, *, splits: Sequence[str]) -> int:
    """How many synthetic scenes of some splits are not there yet."""
    folder, names = synthetic_root(data) / "scenes", split_scenes(data.version)
    limits = {"train": data.train_scenes, "val": data.val_scenes}
    wanted = [scene for split in splits for scene in names[split][: limits[split]]]
    return sum(not (folder / f"{scene}.json").exists() for scene in wanted)


def scene_bytes(data: DataProfile) -> float:
    """What a synthetic scene takes on the disk, about."""
    width, height = data.image_size_px
    return data.key_frames * (KEY_FRAME_BYTES + KEY_FRAME_BYTES_PER_PIXEL * width * height)


def _scene_names(root: Path, *, data: DataProfile, name: str) -> list[str]:
    found = present_scenes(root, version=data.version, name=name)
    limit = data.train_scenes if name == "train" else data.val_scenes
    return found if limit is None else found[:limit]


def present_scenes(root: Path, *, version: str, name: str) -> list[str]:
    """Names of the scenes of a split that the tables hold.

    Raises:
        ValueError: There is no such split, or the tables hold none of its scenes.
    """
    listed = available_scenes(root, version=version)
    splits = split_scenes(version, root=root)
    if name not in splits:
        raise ValueError(f"version {version} in {root} has no split {name}; it has {shown_names(splits)}.")
    present = set(listed)
    found = [scene for scene in splits[name] if scene in present]
    if not found:
        raise ValueError(
            f"{root} holds no scene of split {name}; its tables list {len(present)} others: {shown_names(listed)}. "
            f"{version}/{SPLITS} can say which are train and which val, as the devkit reads it: "
            '{"train": [names], "val": [names]}.'
        )
    return found


def shown_names(names: Iterable[str]) -> str:
    """The first names of scenes or splits, for a sentence."""
    listed = [quoted(name) for name in names]
    return ", ".join(listed[:_SHOWN_NAMES]) + (" ..." if len(listed) > _SHOWN_NAMES else "")


def streaming_dataset(split: Split, *, model: ModelProfile) -> Frames:
    """Single frames in the order of time, without augmentation."""
    return ordered_dataset(split, model=model, samples=split.samples)


def training_dataset(split: Split, *, model: ModelProfile, data: DataProfile, schedule: Optimisation) -> Frames:
    """What the detector trains on, with its augmentation: queues of frames by the schedule, or a config's own."""
    samples = [*split.samples, *(sample for further in split.further for sample in _anywhere(further))]
    return kind_of(model).frames(samples, root=split.root, model=model, training=Augmentation(data, schedule))


def _anywhere(split: Split) -> Iterator[Sample]:
    """The samples with absolute paths, so that they go with those of another folder."""
    for sample in split.samples:
        images = {
            name: image | {"img_path": str(split.root / image["img_path"])} for name, image in sample["images"].items()
        }
        yield sample | {"images": images, "lidar_path": str(split.root / sample["lidar_path"])}


def ordered_dataset(split: Split, *, model: ModelProfile, samples: Sequence[Sample]) -> Frames:
    """The same for chosen samples of a split, such as those that calibrate."""
    return kind_of(model).frames(samples, root=split.root, model=model, training=None)


def sensors(model: ModelProfile) -> dict[str, bool]:
    """Whether a detector uses cameras and LiDAR, as a submission states it: ``use_camera``, ``use_lidar``."""
    return kind_of(model).sensors(model)
