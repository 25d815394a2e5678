"""Building an mmdet3d detector: its own names stay, parts must name everything, nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from qdbev.data.configured.config import read_config
from qdbev.detectors.configured import ConfiguredDetector, build_configured
from qdbev.detectors.configured.build import without_pretrained
from qdbev.quantization import make_plan

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
FCOS3D = {"backbone": ["backbone"], "neck": ["neck"], "decoder": ["bbox_head"]}
CENTERPOINT = {
    "backbone": ["pts_backbone"],
    "neck": ["pts_neck"],
    "encoder": ["pts_voxel_encoder"],
    "decoder": ["pts_bbox_head"],
}


def model(name: str, **options: Any) -> dict[str, Any]:
    content: dict[str, Any] = read_config(EXAMPLES / f"{name}_config.py", options=options)["model"]
    return content


def test_the_detector_is_mmdet3ds_with_its_own_names() -> None:
    from mmdet3d.models.detectors import FCOSMono3D

    detector = build_configured(model("fcos3d"), parts=FCOS3D)
    assert isinstance(detector, FCOSMono3D) and isinstance(detector, ConfiguredDetector)
    assert {name.partition(".")[0] for name in detector.state_dict()} == {"backbone", "neck", "bbox_head"}
    assert detector.parts() == FCOS3D


def test_the_same_seed_gives_the_same_weights() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build_configured(model("centerpoint"), parts=CENTERPOINT).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_pretrained_weights_are_not_fetched() -> None:
    wanted = model("fcos3d", **{"model.backbone.init_cfg": {"type": "Pretrained", "checkpoint": "https://nowhere/x"}})
    assert build_configured(wanted, parts=FCOS3D).parts() == FCOS3D
    kept = {"init_cfg": [{"type": "Constant"}, {"type": "Pretrained"}], "pretrained": "x"}
    assert without_pretrained(kept) == {"init_cfg": [{"type": "Constant"}]}


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ({"backbone": ["backbone"], "decoder": ["bbox_head"]}, r"are in no part, those of neck \(first neck\."),
        ({**FCOS3D, "encoder": ["encoder"]}, r"'encoder', which FCOSMono3D does not have.*backbone, neck, bbox_head"),
        ({**FCOS3D, "encoder": ["neck"]}, "neck twice"),
        ({"decoder": [""]}, "''"),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts: dict[str, list[str]], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build_configured(model("fcos3d"), parts=parts)


@pytest.mark.parametrize("options", [{"model.type": "Nobody"}, {"model.backbone.depth": 19}, {"model.colour": 1}])
def test_models_that_cannot_be_built_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="mmdet3d cannot build the config's model"):
        build_configured(model("fcos3d", **options), parts=FCOS3D)


def test_what_stays_in_float_is_said() -> None:
    detector = build_configured(model("centerpoint"), parts=CENTERPOINT)
    plan = make_plan(detector, parts=detector.parts(), weight_bits=4, activation_bits=6)
    assert plan.site("pts_neck.deblocks.1.0").kind == "transposed_conv"
    assert plan.site("pts_neck.deblocks.1.1").reason.startswith("batch norm that was not folded")
    camera = build_configured(model("fcos3d"), parts=FCOS3D)
    kinds = {site.kind for site in make_plan(camera, parts=camera.parts(), weight_bits=4, activation_bits=6)}
    assert kinds == {"conv2d", "deformable_conv", "float"}


def test_a_failure_inside_mmdet3d_is_a_sentence() -> None:
    from mmdet3d.structures import Det3DDataSample

    detector = build_configured(model("fcos3d"), parts=FCOS3D)
    with pytest.raises(ValueError, match="FCOSMono3D failed in mode predict: KeyError"):
        detector.eval()({"img": [torch.zeros(3, 32, 32)]}, [Det3DDataSample()], mode="predict")
