"""nuScenes through the pipelines of an mmdet3d config: what an item holds, and what decides it."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from mmdet3d.datasets import NuScenesDataset
from mmdet3d.registry import DATASETS

from qdbev.data.configured.config import dataset_section, read_config
from qdbev.data.configured.dataset import ConfiguredDataset, _seeded, class_order
from qdbev.data.nuscenes.layout import CAMERAS, CLASSES
from qdbev.data.nuscenes.records import Sample, read_samples
from qdbev.data.queues.batches import TrainingOrder, frames_in, load_slots, streaming_batches

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"


@pytest.fixture(scope="module")
def samples(tiny_synthetic: Path) -> list[Sample]:
    return read_samples(tiny_synthetic, version="v1.0-trainval")


def dataset(samples: list[Sample], *, root: Path, model: str, name: str, **options: Any) -> ConfiguredDataset:
    config = read_config(EXAMPLES / f"{model}_config.py", options=options)
    return ConfiguredDataset(samples, root=root, section=dataset_section(config, name=name), train=name == "train")


def test_camera_by_camera_an_item_is_six_images(samples: list[Sample], tiny_synthetic: Path) -> None:
    data = dataset(samples, root=tiny_synthetic, model="fcos3d", name="test")
    packed = data[2]
    assert [tuple(one["inputs"]["img"].shape) for one in packed] == [(3, 96, 176)] * 6
    poses = [one["data_samples"].metainfo["lidar2cam"] for one in packed]
    assert all(np.array_equal(pose, samples[2]["images"][name]["lidar2cam"]) for pose, name in zip(poses, CAMERAS))  # noqa: B905
    assert {one["data_samples"].metainfo["token"] for one in packed} == {samples[2]["token"]}
    assert data.modality == {"use_camera": True, "use_lidar": False}


def test_lidar_items_are_points(samples: list[Sample], tiny_synthetic: Path) -> None:
    data = dataset(samples, root=tiny_synthetic, model="centerpoint", name="test")
    (packed,) = data[0]
    points = packed["inputs"]["points"]
    raw = np.fromfile(tiny_synthetic / samples[0]["lidar_path"], dtype=np.float32).reshape(-1, 5)
    inside = (np.abs(raw[:, :2]) < 51.2).all(axis=1) & (raw[:, 2] > -5) & (raw[:, 2] < 3)
    assert np.array_equal(points.numpy(), raw[inside])
    assert data.modality == {"use_camera": False, "use_lidar": True}


@pytest.mark.parametrize("model", ["fcos3d", "centerpoint"])
def test_augmentation_follows_the_generator_alone(samples: list[Sample], tiny_synthetic: Path, model: str) -> None:
    data = dataset(samples, root=tiny_synthetic, model=model, name="train")
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # type: ignore[union-attr]
    one, same, other = (data.arrays(1, generator=np.random.default_rng(seed)) for seed in (0, 0, 7))
    name = next(iter(one[0]["inputs"]))
    assert all(torch.equal(a["inputs"][name], b["inputs"][name]) for a, b in zip(one, same, strict=True))
    assert not all(
        a["inputs"][name].shape == b["inputs"][name].shape and torch.equal(a["inputs"][name], b["inputs"][name])
        for a, b in zip(one, other, strict=True)
    )
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_views_without_boxes_have_empty_columns(samples: list[Sample], tiny_synthetic: Path) -> None:
    bare = copy.deepcopy(samples[0])
    kept = np.zeros(len(bare["instances"]["bbox_label_3d"]), dtype=bool)
    bare["instances"] = {
        name: values[kept] if isinstance(values, np.ndarray) else [] for name, values in bare["instances"].items()
    }
    for model in ("fcos3d", "centerpoint"):
        for packed in dataset([bare], root=tiny_synthetic, model=model, name="train")[0]:
            truth = packed["data_samples"].gt_instances_3d
            assert truth.bboxes_3d.tensor.shape == (0, 9) and truth.labels_3d.shape == (0,)


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_of_streams_and_of_training(samples: list[Sample], tiny_synthetic: Path, workers: int) -> None:
    data = dataset(samples, root=tiny_synthetic, model="fcos3d", name="test")
    batch = next(iter(streaming_batches(data, streams=2, workers=workers)))
    assert len(batch["inputs"]["img"]) == len(batch["data_samples"]) == 12
    assert frames_in(batch) == 2
    training = dataset(samples, root=tiny_synthetic, model="centerpoint", name="train")
    order = TrainingOrder(len(training), seed=3)
    slots = [order.slot(0, place=place, global_batch=2) for place in range(2)]
    (made,) = load_slots(training, batches=[slots], workers=workers)
    (again,) = load_slots(training, batches=[slots], workers=0)
    assert all(torch.equal(*pair) for pair in zip(made["inputs"]["points"], again["inputs"]["points"], strict=True))


def test_classes_are_told_apart_by_name() -> None:
    section = dataset_section(read_config(EXAMPLES / "fcos3d_config.py", options={}), name="test")
    assert [CLASSES[index] for index in class_order(section)][:5] == [
        "car", "truck", "trailer", "bus", "construction_vehicle"
    ]  # fmt: skip
    bare = {"type": "NuScenesDataset", "pipeline": []}
    assert class_order(bare | {"metainfo": {"classes": ["bus"]}}) == (CLASSES.index("bus"),)
    with pytest.raises(ValueError, match="classes tram are not nuScenes'"):
        class_order(bare | {"metainfo": {"classes": ["tram"]}})


def test_a_data_set_that_counts_classes_its_own_way_is_asked(
    samples: list[Sample], tiny_synthetic: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ground truth and results are numbered by one order, that of the data set's own class."""

    class Backwards(NuScenesDataset):  # type: ignore[misc]
        METAINFO: ClassVar[dict[str, Any]] = NuScenesDataset.METAINFO | {
            "classes": tuple(reversed(NuScenesDataset.METAINFO["classes"]))
        }

    monkeypatch.setitem(DATASETS.module_dict, "Backwards", Backwards)
    config = read_config(EXAMPLES / "centerpoint_config.py", options={})
    section = dataset_section(config, name="train") | {"type": "Backwards"}
    section.pop("metainfo", None)
    assert [CLASSES[index] for index in class_order(section)] == list(Backwards.METAINFO["classes"])
    reader = ConfiguredDataset(samples[:1], root=tiny_synthetic, section=section, train=True)
    (packed,) = reader.arrays(0, generator=np.random.default_rng(0))
    truth = packed["data_samples"].gt_instances_3d.labels_3d.tolist()
    known = set(samples[0]["instances"]["bbox_label_3d"].tolist())
    assert truth and {class_order(section)[label] for label in truth} <= known


def test_pixels_are_as_stored_whatever_orientation_the_file_notes(
    samples: list[Sample], tiny_synthetic: Path, tmp_path: Path
) -> None:
    sample = copy.deepcopy(samples[0])
    tag = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x03" + bytes(6)  # turned by 180 degrees
    for camera, image in sample["images"].items():
        raw = (tiny_synthetic / image["img_path"]).read_bytes()
        noted = raw[:2] + b"\xff\xe1" + (len(tag) + 2).to_bytes(2) + tag + raw[2:]
        (tmp_path / f"{camera}.jpg").write_bytes(noted)
        image["img_path"] = f"{camera}.jpg"
    turned = dataset([sample], root=tmp_path, model="fcos3d", name="test")[0]
    plain = dataset(samples[:1], root=tiny_synthetic, model="fcos3d", name="test")[0]
    for left, right in zip(turned, plain, strict=True):
        assert torch.equal(left["inputs"]["img"], right["inputs"]["img"])


def test_wrappers_around_a_data_set_are_taken_off() -> None:
    inner = {"type": "NuScenesDataset", "pipeline": [1]}
    config = {"train_dataloader": {"dataset": {"type": "CBGSDataset", "dataset": inner}}}
    assert dataset_section(config, name="train") == inner
    with pytest.raises(ValueError, match="no test_dataloader or val_dataloader whose dataset has a pipeline"):
        dataset_section(config, name="test")


def test_options_change_the_config() -> None:
    config = read_config(
        EXAMPLES / "fcos3d_config.py", options={"model.backbone.depth": 34, "model.neck": {"num_outs": 4}}
    )
    assert config["model"]["backbone"]["depth"] == 34
    assert (config["model"]["neck"]["num_outs"], config["model"]["neck"]["out_channels"]) == (4, 32)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"test_dataloader.dataset.type": "KittiDataset"}, "cannot be built|reads a KittiDataset"),
        ({"test_dataloader.dataset.pipeline": [{"type": "Nothing"}]}, "test pipeline cannot be built.*Nothing"),
    ],
)
def test_data_sets_that_cannot_be_read_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        dataset([], root=Path(), model="fcos3d", name="test", **options)


def test_a_failing_transform_is_named(samples: list[Sample], tiny_synthetic: Path) -> None:
    data = dataset(samples, root=tiny_synthetic, model="fcos3d", name="test")
    data._source.pipeline.transforms.pop(0)  # nothing loads the image
    with pytest.raises(ValueError, match="a transform of the config failed: KeyError"):
        data[0]


@pytest.mark.parametrize(("text", "sentence"), [("x = (", "cannot be read"), ("x = 1\n", "describes no model")])
def test_files_that_are_no_configs_are_refused(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "config.py"
    path.write_text(text)
    with pytest.raises(ValueError, match=sentence):
        read_config(path, options={})


def test_transforms_draw_apart_for_every_item() -> None:
    drawn = set()
    for number in range(200):
        with _seeded(np.random.default_rng(number)):
            drawn.add((random.random(), float(np.random.random()), float(torch.rand(()))))
    assert len(drawn) == 200
