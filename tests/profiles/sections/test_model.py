"""Model numbers are those of the published variants, inconsistent ones are refused, and keys stay what they were."""

from __future__ import annotations

from pathlib import Path

import pytest

import profiles
from profiles import Document, Profile, ProfileError, fingerprint
from profiles.description import as_yaml
from profiles.detectors.detector import DetectorProfile
from profiles.sections.model import sealed_model

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


EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
CONTENTS = {  # 2026-11-29, before each kind of detector had a section of its own: keys of stores hold these
    "nano": "2f377aa7b115ad594e02d5e5ac266a294f0337c975ba80327b6608c19aebaf70",
    "tiny": "76ed628cfe3c53869d5cc1474ecf20be788ce73314e1419677bea3667eb38656",
    "small": "02c40bb2785b3f70d1f68b8b10c48966aff4e0ad5d7d081a8f6fd4c992650ebd",
    "base": "6e5a7096feace2949e936754c2e5cd6a75949d967504413d0940ecda9644fb5d",
    # 2026-11-30: the example keeps 20 boxes of a level, not 100, so its config is another file
    "fcos3d": "4bb6e5f8ffd592c8bf0071fcaa96aa8529b60496b92977ac6061f1a9ffa77e8a",
    "centerpoint": "0221423bbfa2b69621510517b95fc4dcd0693736394785478ae15e13ea1f9e2d",
}


def _model(name: str) -> DetectorProfile:
    example = EXAMPLES / f"{name}.yaml"
    return profiles.load("w4a6", model=str(example) if example.is_file() else name).model


@pytest.mark.parametrize("name", CONTENTS)
def test_contents_are_those_of_existing_stores(name: str) -> None:
    assert fingerprint(_model(name).content()) == CONTENTS[name]


@pytest.mark.parametrize("name", CONTENTS)
def test_a_manifest_gives_its_model_back(name: str) -> None:
    profile = Profile(model=_model(name))
    circumstances = profile.circumstances() | {
        "model.mmdet3d.config": profile.circumstances().get("model.mmdet3d.config")
    }
    assert sealed_model(profile.model.content(), circumstances=circumstances) == profile.model


def test_a_profile_printed_when_all_kinds_had_one_section_together_loads(tmp_path: Path) -> None:
    empty = "{config: null, config_sha256: null, options: {}, parts: {neck: []}, taps: {bev: null}, output_layers: []}"
    path = tmp_path / "printed.yaml"
    path.write_text(f"{as_yaml(profiles.load('w4a6'))}\n".replace("model:", f"model:\n  mmdet3d: {empty}", 1))
    assert "mmdet3d: {config" in path.read_text()
    assert profiles.load(path).model == _model("nano")


def test_built_in_models_are_told_apart_by_shapes() -> None:
    shapes = {"pts_bbox_head.bev_embedding.weight": (2500, 256), "pts_bbox_head.query_embedding.weight": (900, 512)}
    shapes |= {f"pts_bbox_head.transformer.encoder.layers.{layer}.norms.0.weight": (256,) for layer in range(3)}
    assert [name for name in CONTENTS if _model(name).fits(shapes)] == ["tiny"]
    assert [name for name in CONTENTS if _model(name).fits({})] == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["model.detector=yolo"],
            "model.detector is 'yolo'; allowed: bevdepth, bevdet, bevformer, detr3d, mmdet3d, petr",
        ),
        (["model.mmdet3d.output_layers=[a]"], "model.mmdet3d describes another detector: state detector: mmdet3d too"),
        (["model.nam=1"], "did you mean model.name?"),
        (["model.backbon.depth=18"], "model.backbon is not a field of a profile; did you mean model.backbone?"),
        (["model.detector=mmdet3d"], "describe BEVFormer; those of detector mmdet3d stand in its config"),
        (["model.bev=1"], "model.bev is a section; set one of its fields: rows, columns"),
        (["model=nano"], "model is a section; set one of its fields: name, detector, weights, image"),
        (["model.backbone.depth=19"], "model.backbone.depth is 19; allowed: 18, 34, 50, 101, 152"),
    ],
)
def test_complaints_name_the_fields_of_the_chosen_detector(words: list[str], sentence: str) -> None:
    with pytest.raises(ProfileError) as caught:
        profiles.load("w4a6", overrides=words)
    assert sentence in str(caught.value)


def test_fields_of_a_configured_detector_are_its_own() -> None:
    path = str(EXAMPLES / "fcos3d.yaml")
    for word, sentence in (
        ("model.mmdet3d.taps.imag=neck", "did you mean model.mmdet3d.taps.image?"),
        ("model.colour=1", "model.colour is not a field of a profile"),
        ("model.bev.rows=18", "model.bev describes another detector: state detector: bevformer too"),
    ):
        with pytest.raises(ProfileError) as caught:
            profiles.load("w4a6", model=path, overrides=[word])
        assert sentence in str(caught.value)
    other = {"model.detector=bevformer", "model.mmdet3d.config=x"}
    with pytest.raises(ProfileError, match="mmdet3d describes another detector"):
        profiles.load("w4a6", model=path, overrides=sorted(other))


def test_arguments_name_every_number_once() -> None:
    model = profiles.load("w4a6").model
    arguments = model.arguments()
    numbers = sum(len(type(part).model_fields) for _, part in model if isinstance(part, Document))
    assert (
        len(arguments) == numbers - len(type(model.image).model_fields) + 4
    )  # channels, heads, hidden, dropout stand outside the sections
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
