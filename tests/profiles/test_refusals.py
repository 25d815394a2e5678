"""Values that could never run are refused by the profile at once, in one sentence that names field and choice."""

from __future__ import annotations

import pytest

import profiles
from profiles.document import ProfileError


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["quantization.weight_observer=entropy"],
            "quantization.weight_observer is 'entropy'; allowed: minmax, moving_average, percentile, mse",
        ),
        (
            ["quantization.weight_observer=mse", "quantization.weight_range=follow"],
            "quantization: weight_range must be frozen or learned where weight_observer is mse; "
            "only minmax ranges follow the weights",
        ),
        (
            ["quantization.weight_observer=percentile", "quantization.weight_range=follow"],
            "quantization: weight_range must be frozen or learned where weight_observer is percentile",
        ),
        (
            ["quantization.weight_range=follow"],
            "quantization: training_rounding must be nearest where weight_range is follow; "
            "a range that follows would move under weights rounded for it",
        ),
        (
            ["quantization.activation_offset=learned", "quantization.activation_range=pact"],
            "quantization: activation_offset must be none where activation_range is pact",
        ),
        (
            ["quantization.activation_offset=learned", "quantization.activation_observer=entropy"],
            "quantization: activation_observer must be minmax or mse where activation_offset is learned",
        ),
        (
            ["quantization.activation_offset=learned", "quantization.training_observer=percentile"],
            "quantization: training_observer must be minmax or mse where activation_offset is learned",
        ),
        (
            ["quantization.learned_scale=linear", "quantization.activation_range=pact"],
            "quantization: learned_scale must be log where neither weight_range nor activation_range is learned",
        ),
        (["distillation.weight=-1"], "distillation.weight is -1; must be auto or a number of at least 0"),
        (["distillation.weight=often"], "distillation.weight is 'often'; allowed: a number or auto"),
        (
            ["distillation.combine=additive", "distillation.detach=bev"],
            "distillation: detach is bev; it must be null where combine is additive",
        ),
        (["distillation.objectives=[]"], "distillation.objectives is []; must name at least one, and each once"),
        (
            ["distillation.objectives=[vgd, vgd]"],
            "distillation.objectives is ['vgd', 'vgd']; must name at least one, and each once",
        ),
        (
            ["distillation.objectives=[cwd]"],
            "distillation.objectives is 'cwd'; allowed: a list, each vgd, cwd_image, cwd_bev, fitnet_image, "
            "fitnet_bev, output_class, output_box",
        ),
        (
            ["distillation.cwd_bev.weight=-1"],
            "distillation.cwd_bev.weight is -1; must be auto or a number of at least 0",
        ),
    ],
)
def test_what_never_runs_is_refused_by_name(words: list[str], sentence: str) -> None:
    with pytest.raises(ProfileError) as caught:
        profiles.load("w4a6", overrides=words)
    message = str(caught.value).removeprefix("profile w4a6: ")
    assert message.startswith(sentence)
    assert "; and " not in message  # one sentence


@pytest.mark.parametrize(
    "words",
    [
        ["quantization.weight_observer=mse"],
        ["quantization.weight_observer=mse", "quantization.weight_range=frozen"],
        ["quantization.weight_range=follow", "quantization.training_rounding=nearest"],
        ["quantization.activation_observer=entropy"],
        ["quantization.activation_offset=learned"],
        ["quantization.activation_offset=learned", "quantization.training_observer=null"],
        ["quantization.learned_scale=linear", "quantization.weight_range=learned"],
        [
            "quantization.learned_scale=linear",
            "quantization.weight_range=learned",
            "quantization.activation_range=pact",
        ],
        ["distillation.weight=0"],
        ["distillation.weight=auto"],
        ["distillation.combine=additive"],
        ["distillation.detach=image"],
        ["distillation.image_axis=everything", "distillation.combine=bev_only"],
        ["distillation.objectives=[output_class, cwd_image]", "distillation.output_class.weight=0"],
    ],
)
def test_what_runs_is_accepted(words: list[str]) -> None:
    assert profiles.load("w4a6", overrides=words).overrides == tuple(words)
