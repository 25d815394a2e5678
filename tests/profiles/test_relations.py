"""Fields that contradict each other, or that nothing reads, are refused when the profile is loaded, by name."""

from __future__ import annotations

import inspect
from typing import get_args

import pytest

import profiles
from profiles.detectors.queries import MOST_BOXES
from profiles.document import ProfileError
from qdbev.detectors.bevformer.build import build_bevformer

READ = "which is read where"


def refused(*words: str, model: str = "nano") -> str:
    with pytest.raises(ProfileError) as caught:
        profiles.load("w4a6", model=model, overrides=list(words))
    return str(caught.value).removeprefix("profile w4a6: ")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["calibration.iterations=5"],
            f"calibration.iterations is 5, {READ} calibration.method is adaround or brecq or qdrop; here it is ptq "
            "(from calibration.iterations=5)",
        ),
        (
            ["calibration.learning_rate=1", "calibration.method=gptq"],
            f"calibration.learning_rate is 1.0, {READ} calibration.method is adaround or brecq or qdrop; here it is "
            "gptq (from calibration.learning_rate=1)",
        ),
        (
            ["calibration.adaround_target=float", "calibration.method=brecq"],
            f"calibration.adaround_target is float, {READ} calibration.method is adaround; here it is brecq (from "
            "calibration.adaround_target=float)",
        ),
        (
            ["calibration.bias_correction=empirical"],
            f"calibration.bias_correction is empirical, {READ} calibration.method is dfq; here it is ptq (from "
            "calibration.bias_correction=empirical)",
        ),
        (
            ["quantization.pact_penalty=1"],
            f"quantization.pact_penalty is 1.0, {READ} quantization.activation_range is pact; here it is learned (from "
            "quantization.pact_penalty=1)",
        ),
        (
            ["quantization.moving_momentum=0.5"],
            f"quantization.moving_momentum is 0.5, {READ} quantization.activation_range is moving; here it is learned "
            "(from quantization.moving_momentum=0.5)",
        ),
        (
            ["data.sweeps=val", "data.source=/data/nuscenes"],
            f"data.sweeps is val, {READ} data.source is synthetic; here it is /data/nuscenes (from data.sweeps=val)",
        ),
        (
            ["quantization.percentile=99"],
            "quantization.percentile is 99, and no observer of quantization is percentile, which alone reads it (from "
            "quantization.percentile=99)",
        ),
        (
            ["qat.quantizer_delay=2", "qat.steps_per_stage=2"],
            "qat.quantizer_delay is 2 and the shortest stage has 2 steps: what it adds would never train quantized; "
            "choose fewer (from qat.quantizer_delay=2)",
        ),
        (
            ["qat.freeze_ranges_after=4", "qat.steps_per_stage=[1,2,3,4]"],
            "qat.freeze_ranges_after is 4 and the longest stage has 4 steps: ranges would never stop; choose fewer, or "
            "null (from qat.freeze_ranges_after=4)",
        ),
        (
            ["evaluation.max_boxes=301"],
            "evaluation.max_boxes is 301, and nano gives 300 boxes a sample at most (from evaluation.max_boxes=301)",
        ),
    ],
)
def test_what_contradicts_is_refused(words: list[str], sentence: str) -> None:
    assert refused(*words) == sentence


@pytest.mark.parametrize(
    "words",
    [
        ["calibration.iterations=5", "calibration.method=qdrop"],
        ["calibration.adaround_target=float", "calibration.method=adaround"],
        ["calibration.bias_correction=none", "calibration.method=dfq"],
        ["quantization.percentile=99", "quantization.training_observer=percentile"],
        ["qat.quantizer_delay=2", "qat.steps_per_stage=3", "qat.freeze_ranges_after=2"],
        ["qat.quantizer_delay=5", "qat.stages=1", "qat.steps_per_stage=2"],  # one stage of eight steps
        ["qat.freeze_ranges_after=9", "qat.steps_per_stage=0"],  # nothing trains
        ["evaluation.max_boxes=300"],
        ["data.sweeps=val"],
    ],
)
def test_what_fits_is_taken(words: list[str]) -> None:
    assert profiles.load("w4a6", overrides=words).overrides == tuple(words)


def test_a_stage_that_a_detector_lacks_counts_for_nothing() -> None:
    """Without an encoder its zero steps are no stage."""
    words = ("qat.steps_per_stage=[4,4,0,4]", "qat.quantizer_delay=1")
    assert refused(*words).startswith("qat.quantizer_delay is 1 and the shortest stage has 0 steps")
    profiles.load("w4a6", model="detr3d", overrides=list(words))


def test_other_detectors_may_give_more_boxes() -> None:
    assert profiles.load("w4a6", model="bevdet", overrides=["evaluation.max_boxes=500"]).evaluation.max_boxes == 500


def test_the_most_boxes_are_those_that_detectors_are_built_for() -> None:
    assert inspect.signature(build_bevformer).parameters["max_boxes"].default == MOST_BOXES


def test_what_is_read_where_names_fields_and_values_that_there_are() -> None:
    """Each default of the other field is a value that it may have, so that a misspelt one is seen."""
    named = 0
    for _, section in profiles.load("w4a6"):
        for field, (other, values) in getattr(type(section), "read_where", {}).items():
            annotation = type(section).model_fields[other].annotation
            assert field in type(section).model_fields
            assert annotation is str or set(values) <= set(get_args(annotation))
            named += 1
    assert named == 7
