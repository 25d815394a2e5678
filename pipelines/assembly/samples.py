"""Profile section ``data`` -> samples on disk: the synthetic scenes made on demand, or one's own nuScenes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipelines.assembly.detector import kind_of
from pipelines.store import processes
from pipelines.store.integrity import reading_data
from pipelines.store.locations import SYNTHETIC, cache_folder, synthetic_root
from profiles.home import expanded
from profiles.sections.data import DataProfile
from profiles.sections.model import ModelProfile
from profiles.sections.schedule import Optimisation
from qdbev.data.nuscenes.motion import without_messages
from qdbev.data.nuscenes.records import Sample, read_samples
from qdbev.data.nuscenes.sample_cache import scene_digest
from qdbev.data.nuscenes.tables import available_scenes, split_scenes
from qdbev.data.queues.batches import Frames
from qdbev.data.synthetic import generate

_ALL_SCENES = {"train": 700, "val": 150}


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
        return Split(self.root, self.version, samples, scene_digest(samples))


def load_split(data: DataProfile, *, name: str, progress: bool = False) -> Split:
    """The samples of ``train`` or ``val`` (or a mini split), generated first where they are synthetic and missing.

    Args:
        data: Which data, and how many scenes.
        name: Split of nuscenes-devkit.
        progress: Show bars.

    Raises:
        ValueError: If the data set is damaged, or holds no scene of the split.
    """
    with reading_data():
        return _read_split(data, name, progress)


def _read_split(data: DataProfile, name: str, progress: bool) -> Split:
    if name.startswith("mini_") and not data.version.endswith("mini"):
        raise ValueError(f"split {name} belongs to version v1.0-mini, but data.version is {data.version}.")
    name = name.removeprefix("mini_")  # the version says which train and val are meant
    root = expanded(data.source)
    if data.source == SYNTHETIC:
        root = _generated(data, name=name, progress=progress)
    names = _scene_names(root, data=data, name=name)
    samples = read_samples(
        root, version=data.version, scenes=names, cache=cache_folder(data) / "samples", progress=progress
    )
    if not samples:
        raise ValueError(
            f"the {len(names)} scenes of split {name} in {root} hold no key frame; unpack the tables again, or name "
            "another folder as data.source."
        )
    return Split(root, data.version, samples, scene_digest(samples))


def notes_on_motion(split: Split) -> tuple[str, ...]:
    """A sentence for the manifest where the motion of scenes is not from the CAN bus, as BEVFormer's own is."""
    lacking = sum(without_messages(split.root, scene=scene) for scene in split.scenes)
    if not lacking:
        return ()
    return (f"no CAN bus for {lacking} of {len(split.scenes)} scenes: their motion is from ego poses",)


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

    def make() -> None:
        generate(
            root,
            version=data.version,
            train_scenes=count["train"],
            val_scenes=count["val"],
            seed=data.seed,
            image_size_px=data.image_size_px,
            key_frames=data.key_frames,
            sweeps=data.sweeps,
            grow_only=True,
            progress=progress,
        )

    processes.agreed(make)
    return root


def _scene_names(root: Path, *, data: DataProfile, name: str) -> list[str]:
    splits = split_scenes(data.version)
    if name not in splits:
        raise ValueError(f"version {data.version} has no split {name}; it has {' and '.join(splits)}.")
    present = set(available_scenes(root, version=data.version))
    scenes = [scene for scene in splits[name] if scene in present]
    if not scenes:
        raise ValueError(f"{root} holds no scene of split {name}; its tables list {len(present)} other scenes.")
    limit = data.train_scenes if name == "train" else data.val_scenes
    return scenes if limit is None else scenes[:limit]


def streaming_dataset(split: Split, *, model: ModelProfile) -> Frames:
    """Single frames in the order of time, without augmentation."""
    return ordered_dataset(split, model=model, samples=split.samples)


def training_dataset(split: Split, *, model: ModelProfile, data: DataProfile, schedule: Optimisation) -> Frames:
    """What the detector trains on, with its augmentation: queues of frames by the schedule, or a config's own."""
    samples = [*split.samples, *(sample for further in split.further for sample in _anywhere(further))]
    return kind_of(model).training_frames(samples, root=split.root, model=model, data=data, schedule=schedule)


def _anywhere(split: Split) -> Iterator[Sample]:
    """The samples with absolute paths, so that they go with those of another folder."""
    for sample in split.samples:
        images = {
            name: image | {"img_path": str(split.root / image["img_path"])} for name, image in sample["images"].items()
        }
        yield sample | {"images": images, "lidar_path": str(split.root / sample["lidar_path"])}


def ordered_dataset(split: Split, *, model: ModelProfile, samples: Sequence[Sample]) -> Frames:
    """The same for chosen samples of a split, such as those that calibrate."""
    return kind_of(model).ordered_frames(samples, root=split.root, model=model)


def sensors(model: ModelProfile) -> dict[str, bool]:
    """Whether a detector uses cameras and LiDAR, as a submission states it: ``use_camera``, ``use_lidar``."""
    return kind_of(model).sensors(model)
