"""nuScenes through another detector's own pipelines: the data set section of an mmdet3d config on our records.

An item is one key frame: what the config's transforms packed (``inputs`` and a ``Det3DDataSample``), once, or once for
each of the six cameras where the config reads camera by camera (``load_type`` mv_image_based). Into the metainfo of
each sample go ``token`` and, of a single camera, ``lidar2cam``, for the boxes' way back.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet3d.datasets import NuScenesDataset
from mmdet3d.registry import DATASETS
from mmengine.registry import DefaultScope
from torch.utils.data import Dataset

from qdbev.data.nuscenes.infos import frame_info
from qdbev.data.nuscenes.layout import CLASSES
from qdbev.data.nuscenes.records import Sample

Packed = dict[str, Any]
_PLACES = ("data_root", "data_prefix", "ann_file", "indices", "serialize_data", "lazy_init", "test_mode")


class ConfiguredDataset(Dataset[list[Packed]]):
    """Key frames as items; the order and number of samples are the caller's, whatever the config balances or repeats.

    Args:
        samples: Records of ``qdbev.data.nuscenes.records.read_samples``.
        root: Folder of their paths.
        section: The config's data set, by ``dataset_section``; its paths are not used.
        train: With ground truth, for a pipeline that loads it.

    Raises:
        ValueError: the section is not mmdet3d's nuScenes, or its pipeline cannot be built.
    """

    def __init__(self, samples: Sequence[Sample], *, root: Path | str, section: Mapping[str, Any], train: bool) -> None:
        self.samples = list(samples)
        self.train = train
        self._root = Path(root).absolute()
        self._source = _built(section, train=train)
        self._numbered = type(self._source).METAINFO["classes"]  # of infos; the config may count its own otherwise

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> list[Packed]:
        return self.arrays(index, generator=np.random.default_rng([index]))

    @property
    def modality(self) -> dict[str, bool]:
        """Which sensors the config says it reads: ``use_camera`` and ``use_lidar``."""
        return {name: bool(self._source.modality[name]) for name in ("use_camera", "use_lidar")}

    @staticmethod
    def packed(items: Sequence[Sequence[Packed]]) -> dict[str, Any]:
        """A batch is sent as it is; see ``join``."""
        return join(items)

    @staticmethod
    def batch(sent: dict[str, Any]) -> dict[str, Any]:
        """What was sent."""
        return sent

    def arrays(self, index: int, *, generator: np.random.Generator) -> list[Packed]:
        """What the pipeline packs of one key frame; every random choice in it follows from ``generator``.

        Raises:
            ValueError: the pipeline fails, drops the frame, or packs several augmentations.
        """
        sample = self.samples[index]
        info = frame_info(sample, root=self._root, index=index, classes=self._numbered)
        parsed = self._source.parse_data_info(info)
        views = parsed if isinstance(parsed, list) else [parsed]
        with _seeded(generator):
            return [self._packed(view, sample=sample) for view in views]

    def _packed(self, view: dict[str, Any], *, sample: Sample) -> Packed:
        view |= {"box_type_3d": self._source.box_type_3d, "box_mode_3d": self._source.box_mode_3d}
        if self.train:
            view["ann_info"] = _columns(view["ann_info"])
        camera = next(iter(view["images"])) if len(view["images"]) == 1 else None
        try:
            packed = self._source.pipeline(view)
        except OSError:
            raise
        except Exception as error:  # the transforms are other people's
            raise ValueError(f"a transform of the config failed: {type(error).__name__}: {error}") from error
        if not isinstance(packed, dict):
            raise ValueError(
                "the config's pipeline gave several augmentations, or nothing, of a frame; it must pack each frame once"
            )
        own = {"token": sample["token"]}
        if camera is not None:
            own["lidar2cam"] = sample["images"][camera]["lidar2cam"]
        packed["data_samples"].set_metainfo(own)
        return packed


def join(items: Sequence[Sequence[Packed]]) -> dict[str, Any]:
    """A batch as mmdet3d's preprocessors take it: lists of inputs by name, and of data samples, frame after frame."""
    packed = [one for item in items for one in item]
    names = packed[0]["inputs"]
    return {
        "inputs": {name: [one["inputs"][name] for one in packed] for name in names},
        "data_samples": [one["data_samples"] for one in packed],
    }


def class_order(section: Mapping[str, Any]) -> tuple[int, ...]:
    """For each label of a data set, the index of its class in ``qdbev.data.nuscenes.layout.CLASSES``.

    The data set itself is asked, once built: a class of data sets may number classes its own way.

    Args:
        section: By ``qdbev.data.configured.config.dataset_section``.

    Raises:
        ValueError: A class that nuScenes' detection task does not have, or the data set cannot be built.
    """
    _refuse_unknown((section.get("metainfo") or {}).get("classes") or ())
    names = tuple(_built(section, train=False).metainfo["classes"])
    _refuse_unknown(names)
    return tuple(CLASSES.index(name) for name in names)


def _refuse_unknown(names: Sequence[str]) -> None:
    if unknown := [str(name) for name in names if name not in CLASSES]:
        raise ValueError(f"the config's classes {', '.join(unknown)} are not nuScenes': {', '.join(CLASSES)}")


def _built(section: Mapping[str, Any], *, train: bool) -> NuScenesDataset:
    kept = {name: value for name, value in section.items() if name not in _PLACES}
    places = {"data_root": "", "ann_file": "", "data_prefix": dict.fromkeys(("pts", "img", "sweeps"), "")}
    try:
        with DefaultScope.overwrite_default_scope("mmdet3d"):
            built = DATASETS.build({**kept, **places, "lazy_init": True, "test_mode": not train})
    except Exception as error:  # a config's pipeline may fail in any way
        raise ValueError(
            f"the config's {'train' if train else 'test'} pipeline cannot be built: {type(error).__name__}: {error}; "
            "mmdet3d.options can change it"
        ) from error
    if not isinstance(built, NuScenesDataset):
        raise ValueError(f"the config reads a {type(built).__name__}; qdbev gives nuScenes, for NuScenesDataset")
    built.load_eval_anns = False
    for transform in built.pipeline.transforms:
        if getattr(transform, "color_type", None) == "color":
            transform.color_type = "color_ignore_orientation"  # pixels as stored, as calibration means them
    return built


def _columns(annotations: dict[str, Any]) -> dict[str, Any]:
    """Annotations of a view without boxes have single zeros where empty columns belong."""
    return {
        name: value[None][:0] if isinstance(value, np.ndarray) and value.ndim == 0 else value
        for name, value in annotations.items()
    }


@contextmanager
def _seeded(generator: np.random.Generator) -> Iterator[None]:
    """The global generators, which transforms draw from, seeded by ``generator``, and afterwards as they were."""
    python, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        seed = int(generator.integers(2**32))
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)
