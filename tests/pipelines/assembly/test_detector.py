"""What is built for a profile: its detector by the row of its kind, and the device that it means."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import profiles
from pipelines.assembly.detector import build_detector, device_of, kind_of, refuse_unable
from pipelines.assembly.samples import load_split, ordered_dataset, training_dataset
from pipelines.assembly.scene import countable
from pipelines.store.integrity import UnusableInput
from profiles.choices import kinds
from profiles.profile import Profile
from profiles.sections.rig import NUSCENES_RIG, ClassProfile, RigProfile
from qdbev.data.nuscenes.layout import CLASSES
from qdbev.data.queues.cropped import CroppedDataset
from qdbev.data.queues.lifting import LiftDataset
from qdbev.data.queues.temporal import TemporalDataset

FCOS3D = str(Path(__file__).parents[3] / "docs" / "examples" / "fcos3d.yaml")


def test_every_kind_of_the_profiles_has_its_row() -> None:
    for kind in kinds(Profile.model_fields["model"]).values():
        assert kind_of(kind.model_construct())


def test_a_row_says_what_its_kind_sees() -> None:
    nano, fcos = profiles.load("float").model, profiles.load("float", model=FCOS3D).model
    assert kind_of(nano).sensors(nano) == kind_of(fcos).sensors(fcos) == {"use_camera": True, "use_lidar": False}
    assert kind_of(nano).classes(nano, NUSCENES_RIG) == CLASSES
    of_config = kind_of(fcos).classes(fcos, NUSCENES_RIG)
    assert set(of_config) == set(CLASSES) and of_config != CLASSES


def test_a_detector_of_a_config_finds_the_classes_of_nuscenes_alone() -> None:
    rig = RigProfile(name="two", classes=NUSCENES_RIG.classes[:2])
    with pytest.raises(ValueError, match=r"finds nuScenes' classes, and data\.rig is two with 2 of its own"):
        build_detector(profiles.load("float", model=FCOS3D).model, rig=rig)


def test_detectors_have_the_cameras_and_classes_of_their_rig() -> None:
    rig = RigProfile(
        cameras=("LEFT", "FRONT", "RIGHT", "BACK"),
        classes=(*NUSCENES_RIG.classes, ClassProfile(name="tram", categories=("vehicle.tram",), range_m=60)),
    )
    state = build_detector(profiles.load("float").model, rig=rig).state_dict()
    assert len(state["pts_bbox_head.transformer.cams_embeds"]) == 4
    assert len(state["pts_bbox_head.cls_branches.0.6.bias"]) == 11
    words = ["model.backbone.depth=18", "model.backbone.base_channels=8"]
    for name, prefix in (("bevdet", "pts_bbox_head"), ("bevdepth", "head")):
        heads = build_detector(profiles.load("float", model=name, overrides=words).model, rig=rig).state_dict()
        biases = [len(heads[f"{prefix}.task_heads.{number}.heatmap.1.bias"]) for number in range(11)]
        assert biases == [1] * 11  # other classes than nuScenes': each has maps of its own


def test_what_a_detector_cannot_do_is_refused_in_its_own_words() -> None:
    profile = profiles.load("float", model=FCOS3D)
    with pytest.raises(ValueError, match=r"FCOSMono3D cannot run by shapes alone, because .* costs and memory"):
        countable(profile)
    with pytest.raises(ValueError, match=r"FCOSMono3D cannot run part by part, because .* a bit plan"):
        refuse_unable(build_detector(profile.model), ability="stages")
    detector, scene = countable(profiles.load("float"))
    assert scene.image_px == (96, 176) and detector.shape_run(scene)()


@pytest.mark.parametrize(
    ("device", "count", "here"),
    [("cuda", 0, "no CUDA device"), ("cuda:0", 0, "no CUDA device"), ("cuda:2", 2, "2 CUDA devices, cuda:0 to cuda:1")],
)
def test_a_gpu_that_is_not_here_is_said_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, device: str, count: int, here: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    with pytest.raises(ValueError) as caught:
        device_of(profiles.load("w4a6", device=device))
    said = str(caught.value)
    assert "\n" not in said
    assert not isinstance(caught.value, UnusableInput)  # exit code 2, not 3
    assert device in said and here in said and "--device cpu" in said


def test_devices_that_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for word, device in [("auto", "cuda"), ("cuda", "cuda"), ("cuda:1", "cuda:1"), ("cpu", "cpu")]:
        assert device_of(profiles.load("w4a6", device=word)) == torch.device(device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of(profiles.load("w4a6", device="auto")) == torch.device("cpu")


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("nano", TemporalDataset),
        ("detr3d", TemporalDataset),
        ("petr", CroppedDataset),
        ("bevdet4d", LiftDataset),
        ("bevdepth", LiftDataset),
    ],
)
def test_a_detector_trains_and_calibrates_on_frames_of_its_kind(model: str, kind: type, tiny_synthetic: Path) -> None:
    words = [f"data.source={tiny_synthetic}", "data.train_scenes=1"]
    profile = profiles.load("float", model=model, overrides=words)
    split = load_split(profile.data, name="train")
    trained = training_dataset(split, model=profile.model, data=profile.data, schedule=profile.float_training)
    ordered = ordered_dataset(split, model=profile.model, samples=split.samples)
    for frames in (trained, ordered):
        assert type(frames) is kind and len(frames) == len(split.samples) == 4
