"""The image branch of an mmdet3d detector: found by watching it run, equal to it to the last bit, or refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from mmdet3d.structures import Det3DDataSample, LiDARInstance3DBoxes
from torch import Tensor, nn

from qdbev.data.configured.config import read_config
from qdbev.detectors.configured import ConfiguredDetector, ImageBranch, build_configured
from tests.detectors.configured.conftest import CONFIG, fcos3d, key_frame


@pytest.fixture(scope="module")
def fcos() -> ConfiguredDetector:
    return fcos3d()


@pytest.fixture(scope="module")
def branch(fcos: ConfiguredDetector) -> ImageBranch:
    return ImageBranch(fcos, *key_frame(1))


def test_the_branch_is_what_the_detector_extracts(fcos: ConfiguredDetector, branch: ImageBranch) -> None:
    feeds = branch.feeds(*key_frame(2))
    outputs = branch.run(feeds)
    inputs, samples = key_frame(2)
    ready = fcos.data_preprocessor({"inputs": inputs, "data_samples": samples}, False)
    with torch.no_grad():
        expected = fcos.extract_feat(ready["inputs"])
    assert torch.equal(feeds["image"], ready["inputs"]["imgs"]) and list(outputs) == ["level_0", "level_1", "level_2"]
    assert all(torch.equal(value, level) for value, level in zip(outputs.values(), expected, strict=True))
    assert (branch.start(), branch.carry(outputs)) == ({}, {})


def test_it_says_what_it_is(branch: ImageBranch) -> None:
    assert (branch.paths, branch.left_out) == (["backbone", "neck"], [])
    assert branch.inputs["image"].shape == (2, 3, 64, 96)
    assert branch.meanings["level_1"] == "map of neck, 16 pixels a cell (N, C, H, W)"
    mean, std, *others = branch.normalisation.values()
    assert mean == pytest.approx([123.675, 116.28, 103.53]) and std == pytest.approx([58.395, 57.12, 57.375])
    assert others == [True, 32]


def test_images_of_another_size_are_refused(branch: ImageBranch) -> None:
    with pytest.raises(ValueError, match=r"images have shape \(2, 3, 64, 128\), this graph takes \(2, 3, 64, 96\)"):
        branch.feeds(*key_frame(1, image_px=(64, 128)))


def test_a_head_that_stands_among_the_necks_is_refused(fcos: ConfiguredDetector) -> None:
    detector = fcos3d()
    detector.stated_parts = {"backbone": ["backbone"], "neck": ["neck", "bbox_head"]}
    with pytest.raises(ValueError, match="bbox_head gives something else than maps"):
        ImageBranch(detector, *key_frame(1))


def test_of_a_detector_of_images_and_lidar_what_sees_images_is_taken() -> None:
    """CenterPoint with the image branch of FCOS3D beside its pillars."""
    cameras = read_config(CONFIG, options={})["model"]
    model = read_config(CONFIG.with_name("centerpoint_config.py"), options={})["model"]
    model |= {"img_backbone": cameras["backbone"], "img_neck": cameras["neck"]}
    model["data_preprocessor"] |= {name: cameras["data_preprocessor"][name] for name in ("mean", "std")}
    backbone, neck = (["pts_backbone", "img_backbone"], ["img_neck", "pts_neck"])
    parts = {"backbone": backbone, "neck": neck, "encoder": ["pts_voxel_encoder"], "decoder": ["pts_bbox_head"]}
    points = torch.rand(200, 5, generator=torch.Generator().manual_seed(0)) * 8
    told = {"token": "", "img_shape": [(64, 96)] * 2, "box_type_3d": LiDARInstance3DBoxes}
    inputs = {"points": [points], "img": [torch.stack(key_frame(1)[0]["img"])]}
    branch = ImageBranch(build_configured(model, parts=parts), inputs, [Det3DDataSample(metainfo=told)])
    assert (branch.paths, branch.left_out) == (["img_backbone", "img_neck"], ["pts_backbone", "pts_neck"])
    assert branch.inputs["image"].shape == (2, 3, 64, 96)
    assert branch.normalisation["sides_are_multiples_of"] == 1 and not branch.normalisation["swaps_red_and_blue"]


class Stack(nn.Module):
    """Stands where mmdet3d normalises."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, batch: dict[str, Any], _training: bool) -> dict[str, Any]:
        return {"inputs": {self.name: batch["inputs"]["img"]}, "data_samples": batch["data_samples"]}


class Whole(nn.Module):
    """A detector of a backbone, a neck, and something in between."""

    def forward(self, inputs: dict[str, Tensor], _samples: Any, mode: str) -> Tensor:
        (images,) = inputs.values()
        maps = self.neck(self.between(self.backbone(self.before(images))))
        return maps[0].relu_() if isinstance(maps, list) else maps


class Levels(nn.Module):
    """A layer, whose map is one of a list."""

    def __init__(self, *, remembers: bool = False, draws: bool = False, rows: bool = False) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1)
        self.remembers, self.draws, self.rows, self.calls = remembers, draws, rows, 0

    def forward(self, maps: Tensor | Sequence[Tensor], **_told: Any) -> Any:
        self.calls += 1
        found = self.layer(maps if isinstance(maps, Tensor) else maps[0])
        found = found + self.calls if self.remembers else found
        found = found + torch.rand(()) if self.draws else found
        return found.flatten(2) if self.rows else [found]


def toy(
    *,
    before: Callable[[Tensor], Any] = lambda images: images,
    between: Callable[[Any], Any] = lambda maps: maps,
    backbone: nn.Module | None = None,
    neck: nn.Module | None = None,
    images: str = "imgs",
) -> Any:
    detector: Any = Whole()
    detector.__class__ = type("Toy", (ConfiguredDetector, Whole), {})
    detector.data_preprocessor = Stack(images)
    detector.backbone, detector.neck = backbone or Levels(), neck or Levels()
    detector.before, detector.between = before, between
    detector.stated_parts = {"backbone": ["backbone"], "neck": ["neck"]}
    return detector


def images(*shape: int) -> dict[str, Any]:
    return {"img": torch.randn(*(shape or (2, 3, 4, 6)), generator=torch.Generator().manual_seed(0))}


def test_a_neck_may_take_one_map_of_a_list() -> None:
    branch = ImageBranch(toy(between=lambda maps: maps[0]), images(), [])
    assert branch.paths == ["backbone", "neck"]
    assert branch.run(branch.inputs)["level_0"].shape == (2, 3, 4, 6)


def test_images_of_a_key_frame_may_come_under_their_frame() -> None:
    branch = ImageBranch(toy(before=lambda frames: frames.flatten(0, 1)), images(1, 2, 3, 4, 6), [])
    assert branch.inputs["image"].shape == (2, 3, 4, 6)


@pytest.mark.parametrize("between", [lambda maps: [maps[0] * 2], lambda maps: [*maps, *maps]])
def test_what_gets_something_else_than_the_module_before_gave_is_left_out(between: Callable[[Any], Any]) -> None:
    branch = ImageBranch(toy(between=between), images(), [])
    assert (branch.paths, branch.left_out) == (["backbone"], ["neck"])


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"backbone": Levels(remembers=True)}, "backbone and neck alone give other numbers than within Toy"),
        ({"neck": Levels(draws=True)}, "backbone and neck alone give other numbers than within Toy"),
        ({"neck": Levels(rows=True)}, "neck gives something else than maps"),
        ({"images": "voxels"}, "Toy has no image branch: its preprocessor gives no images"),
        ({"before": lambda images: images * 2}, r"no module of backbone or neck takes the images .*\(backbone, neck\)"),
    ],
)
def test_what_is_no_graph_of_images_is_refused(changed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ImageBranch(toy(**changed), images(), [])


def test_a_module_that_runs_more_than_once_is_refused() -> None:
    backbone = Levels()
    detector = toy(backbone=backbone, before=lambda images: [backbone(images), images][1])
    with pytest.raises(ValueError, match="backbone of Toy runs 2 times in a key frame"):
        ImageBranch(detector, images(), [])
