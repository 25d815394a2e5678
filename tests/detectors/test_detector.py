"""What every detector offers: the Protocol is met, stages compose to detections, what cannot be done is a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from qdbev.data.configured.config import read_config
from qdbev.detectors.bevformer import BEVFormer
from qdbev.detectors.configured import ConfiguredDetector, build_configured
from qdbev.detectors.detector import Detector, Scene
from qdbev.detectors.detr3d import DETR3D
from qdbev.detectors.petr import PETR

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
PROMISES = [name for name in vars(Detector) if not name.startswith("_")]
SCENE = Scene((64, 96), torch.eye(4).expand(6, 4, 4))


@pytest.fixture(scope="module")
def fcos() -> ConfiguredDetector:
    model = read_config(EXAMPLES / "fcos3d_config.py", options={})["model"]
    return build_configured(model, parts={"all": ["backbone", "neck", "bbox_head"]})


@pytest.mark.parametrize("kind", [BEVFormer, ConfiguredDetector, DETR3D, PETR])
def test_every_detector_keeps_every_promise(kind: type) -> None:
    assert len(PROMISES) > 15
    assert [name for name in PROMISES if name != "history" and not hasattr(kind, name)] == []


@torch.no_grad()
def test_a_stream_part_by_part_is_the_detectors_own(make_model: Any, make_batch: Any) -> None:
    model = make_model().eval()
    history = model.new_history(scenes=2)
    for number in range(3):
        inputs, samples = make_batch(follows=[[number > 0], [number > 1]], seed=number, first_index=number)
        stages = model.stages(inputs, samples, history=history)
        assert list(stages.steps) == list(model.parts())
        value = stages.first
        for step in stages.streamed().values():
            value = step(value)
        alone = model.detections(inputs, samples)
        assert [token for token, _ in value] == [token for token, _ in alone]
        for (_, one), (_, other) in zip(value, alone, strict=True):
            assert torch.equal(one.scores_3d, other.scores_3d)
            assert torch.equal(one.bboxes_3d.tensor, other.bboxes_3d.tensor)


@torch.no_grad()
def test_steps_alone_leave_the_memory_as_it_was(make_model: Any, make_batch: Any) -> None:
    model = make_model().eval()
    history = model.new_history(scenes=1)
    first, second = (make_batch(follows=[[number > 0]], seed=number, first_index=number) for number in range(2))
    outputs = []
    for inputs, samples in (first, second, second):
        stages = model.stages(inputs, samples, history=history)
        value, given = stages.first, {}
        for part, step in stages.steps.items():
            value = given[part] = step(value)
        outputs.append(stages.outputs(value))
        if samples is first[1]:
            stages.remember(given[stages.memory_part])
    (_, _), (logits, code), (again, code_again) = outputs
    assert torch.equal(logits, again) and torch.equal(code, code_again)
    assert logits.shape == (1, 12, 10) and code.shape == (1, 12, 10)
    inputs, samples = second
    stages = model.stages(inputs, samples, history=model.new_history(scenes=1))
    value = stages.first
    for step in stages.steps.values():
        value = step(value)
    assert not torch.equal(stages.outputs(value)[0], logits)  # without the frame before


def test_a_frame_of_noise_follows_another(make_model: Any) -> None:
    stages = make_model().eval().noise_stages(SCENE, device=torch.device("cpu"))
    assert stages.first.shape == (1, 6, 3, 64, 96) and stages.first.std() > 0.9


def test_what_a_config_alone_does_not_tell_is_said_by_the_detector(fcos: ConfiguredDetector) -> None:
    reasons = {ability: fcos.cannot(ability) for ability in ("stages", "shapes")}  # type: ignore[arg-type]
    assert "FCOSMono3D cannot run part by part" in reasons["stages"]
    assert "FCOSMono3D cannot run by shapes alone" in reasons["shapes"]
    calls = {
        "stages": [
            lambda: fcos.stages({}, [], history=fcos.new_history(scenes=1)),
            lambda: fcos.noise_stages(SCENE, device=torch.device("cpu")),
        ],
        "shapes": [
            lambda: fcos.shape_run(SCENE),
            lambda: fcos.feature_sizes(SCENE),
            lambda: fcos.sampling_repeats(SCENE),
            lambda: fcos.official_repeats(SCENE),
        ],
    }
    for ability, of_ability in calls.items():
        for call in of_ability:
            with pytest.raises(ValueError) as caught:
                call()
            assert str(caught.value) == reasons[ability]


def test_a_bevformer_can_do_everything(make_model: Any) -> None:
    assert {make_model().cannot(ability) for ability in ("stages", "shapes")} == {""}
