"""Model numbers are those of the published variants, and inconsistent ones are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

import profiles
from profiles import Document, ProfileError

# (backbone, stages with deformable convolutions, padded divisor, scale, BEV, encoder layers, queries, levels, queue)
PUBLISHED = {
    "tiny": (50, 0, 0.5, 50, 3, 900, 1, 3),
    "small": (101, 2, 0.8, 150, 3, 900, 1, 3),
    "base": (101, 2, 1.0, 200, 6, 900, 4, 4),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_official_variants(name: str) -> None:
    profile = profiles.load("float", model=name)
    model = profile.model
    stated = (
        *(
            model.backbone.depth,
            sum(model.backbone.dcn_stages),
            model.image.scale,
            model.bev.rows,
            model.encoder.layers,
        ),
        *(model.head.queries, model.neck.outputs, profile.data.queue_length),
    )
    assert stated == PUBLISHED[name]
    assert model.bev.columns == model.bev.rows
    assert (model.channels, model.heads, model.hidden, model.image.pad_divisor) == (256, 8, 512, 32)
    assert (model.bev.rotation_centre_px, model.bev.rotation_nearest) == ((100.0, 100.0), True)
    assert model.weights is None


def test_nano_runs_from_shipped_weights() -> None:
    model = profiles.load("w4a6").model
    assert (model.name, model.weights, model.channels, model.bev.rows) == ("nano", "zoo", 64, 40)


def test_arguments_name_every_number_once() -> None:
    model = profiles.load("w4a6").model
    arguments = model.arguments()
    numbers = sum(len(type(part).model_fields) for _, part in model if isinstance(part, Document))
    others = len(type(model.image).model_fields) + len(type(model.mmdet3d).model_fields)
    assert len(arguments) == numbers - others + 4  # channels, heads, hidden, dropout stand outside the sections
    assert arguments["backbone_out_indices"] == (1, 2)
    assert arguments["decoder_points"] == 4
    assert arguments["temporal_points"] == 4


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("backbone: {out_indices: [2]}", "neck.in_channels has 2 entries, but backbone.out_indices (2,)"),
        ("backbone: {dcn_stages: [true]}", "backbone.dcn_stages has 1 entries for 3 stages"),
        ("channels: 66", "channels 66 is not a multiple of heads 4"),
        ("encoder: {spatial_points: 6}", "encoder.spatial_points 6 is not a multiple of bev.heights 4"),
        ("head: {code_weights: [1, 2]}", "model.head.code_weights is [1, 2]"),
    ],
)
def test_numbers_that_do_not_fit_each_other(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(f"model:\n  extends: nano\n  {text}\n")
    with pytest.raises(ProfileError) as caught:
        profiles.load("w4a6", model=str(path))
    assert sentence in str(caught.value)
