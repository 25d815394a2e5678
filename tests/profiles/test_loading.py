"""Profiles are found by name or path, layered, overridden, and complain in sentences."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import profiles
from profiles import ProfileError

BITS = {"w8a8": (8, 8), "w6a6": (6, 6), "w4a6": (4, 6), "w4a4": (4, 4), "float": (32, 32)}


def test_built_in_names() -> None:
    assert set(profiles.builtin_profiles()) == set(BITS)
    assert set(profiles.builtin_models()) == {
        "nano",
        "nano-bevdepth",
        "nano-bevdet4d",
        "nano-detr3d",
        "nano-petr",
        "tiny",
        "small",
        "base",
        "bevdepth",
        "bevdet",
        "bevdet4d",
        "detr3d",
        "detr3d-r50",
        "petr",
    }


@pytest.mark.parametrize("name", BITS)
def test_built_in_bits(name: str) -> None:
    quantization = profiles.load(name).quantization
    assert (quantization.weight_bits, quantization.activation_bits) == BITS[name]


BUILTIN = (profiles.builtin_profiles(), profiles.builtin_models(), profiles.builtin_recipes())


@pytest.mark.parametrize("path", [path for files in BUILTIN for path in files.values()], ids=lambda path: path.stem)
def test_built_in_files_are_short_and_open_with_command_time_and_result(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) <= 40
    assert all(line.startswith("#") for line in lines[:4])
    assert lines[1].startswith("#   qdbev ")
    assert lines[2].startswith("# Time: ")
    assert lines[3].startswith("# Result: ")


def test_supplement_learning_rates_are_the_defaults() -> None:
    profile = profiles.load("w4a6", model="tiny")
    assert (profile.qat.learning_rate, profile.qat.backbone_multiplier) == (2e-4, 0.1)
    assert (profile.distillation.schedule.learning_rate, profile.distillation.schedule.backbone_multiplier) == (
        1e-5,
        0.5,
    )


def test_a_model_in_place_of_the_profiles_own() -> None:
    profile = profiles.load("w4a6", model="base")
    assert profile.model.name == "base"
    assert profile.model.bev.rows == 200
    assert profile.data.queue_length == 4
    assert profile.overrides == ("model=base",)


def test_a_file_states_only_what_it_decides(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("model: {extends: nano, channels: 32}\nquantization: {weight_bits: 5}\nseed: 4\n")
    profile = profiles.load(path)
    nano = profiles.load("w4a6").model
    assert profile.name == "mine"
    assert profile.model == nano.model_copy(update={"channels": 32})
    assert (profile.quantization.weight_bits, profile.quantization.activation_bits, profile.seed) == (5, 6, 4)


def test_extends_takes_the_rest_from_another_profile(tmp_path: Path) -> None:
    (tmp_path / "parent.yaml").write_text("extends: w8a8\nseed: 4\nqat: {stages: 2, steps_per_stage: 7}\n")
    (tmp_path / "child.yaml").write_text("extends: parent\nqat: {stages: 1}\n")
    profile = profiles.load(tmp_path / "child.yaml")
    assert (profile.name, profile.seed, profile.quantization.weight_bits) == ("child", 4, 8)
    assert (profile.qat.stages, profile.qat.steps_per_stage) == (1, 7)


def test_a_profile_that_extends_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b\n")
    (tmp_path / "b.yaml").write_text("extends: a\n")
    with pytest.raises(ProfileError, match="extends itself: a -> b -> a"):
        profiles.load(tmp_path / "a.yaml")


def test_a_models_file_may_bring_its_own_schedule(tmp_path: Path) -> None:
    path = tmp_path / "micro.yaml"
    path.write_text("model: {extends: nano, channels: 32}\nqat: {batch_size: 3}\n")
    profile = profiles.load("w4a6", model=str(path), overrides=["qat.stages=2"])
    nano = profiles.load("w4a6")
    assert (profile.model.name, profile.model.channels) == ("micro", 32)
    assert (profile.qat.batch_size, profile.qat.stages) == (3, 2)
    assert profile.qat.steps_per_stage == nano.qat.steps_per_stage


def test_the_profile_wins_over_the_models_file_and_overrides_over_both(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("model: nano\nqat: {batch_size: 5}\n")
    assert profiles.load(path).qat.batch_size == 5
    assert profiles.load(path, overrides=["qat.batch_size=6"]).qat.batch_size == 6


def test_overrides_seed_and_device_are_recorded_as_typed() -> None:
    profile = profiles.load("w4a6", overrides=["qat.learning_rate=1e-4"], seed=3, device="cpu")
    assert profile.overrides == ("qat.learning_rate=1e-4", "seed=3", "device=cpu")
    assert (profile.qat.learning_rate, profile.seed, profile.device) == (1e-4, 3, "cpu")


def test_what_decides_is_the_same_however_it_was_said(tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_text("model: nano\nquantization: {activation_bits: 6, weight_bits: 4}\nseed: 2\n")
    said = profiles.load(path)
    typed = profiles.load("w4a6", overrides=["data.workers=2", "data.cache=/tmp/elsewhere"], seed=2, device="cpu")
    sections = said.deciding("model", "data", "quantization")
    assert sections == typed.deciding("model", "data", "quantization") and list(sections) == [
        "model",
        "data",
        "quantization",
    ]
    assert sections["model"]["weights"] is None and said.model.weights == "zoo"  # keys hold the digest of the weights


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("quantization.weight_bits=9", "quantization.weight_bits is 9; allowed: 2, 3, 4, 5, 6, 7, 8, 32"),
        ("quantization.weight_bit=4", "did you mean quantization.weight_bits?"),
        ("quantisation.weight_bits=4", "quantisation is not a field of a profile; did you mean quantization?"),
        ("quantization.scale_rule=hawk", "quantization.scale_rule is 'hawk'; allowed: qdbev, hawq"),
        ("distillation.weight=abc", "distillation.weight is 'abc'; allowed: a number or auto"),
        ("distillation.detach=bew", "distillation.detach is 'bew'; allowed: image, bev or null"),
        ("data.train_scenes=0", "data.train_scenes is 0; it must be greater than or equal to 1"),
        ("data.train_scenes=few", "data.train_scenes is 'few'; allowed: a whole number or null"),
        ("data.image_size_px=[30]", "data.image_size_px is [30]; allowed: a list of 2, each a whole number"),
        ("seed=yes", "seed is true, and takes numbers"),
        ("calibration.smoothing=no", "calibration: smoothing is false, and takes numbers"),
        ("data.more_seeds=[on, 2]", "data: more_seeds is [true, 2], and takes numbers"),
        ("qat.photometric=maybe", "qat.photometric is 'maybe'; allowed: true or false"),
        ("model.backbone.stages=1", "model: backbone.out_indices (1, 2) need more than 1 stages"),
        ("device=gpu", "device is 'gpu'; must be auto, cpu, cuda or cuda:N"),
        ("quantization=4", "quantization is a section; set one of its fields: weight_bits"),
        ("seed.x=3", "seed is a single value; it has no field x"),
        ("overrides=3", "overrides is not a field of a profile"),
        ("weight_bits", "--set takes section.field=value"),
        ("model.weights=[1", "--set model.weights line 1 is not YAML"),
    ],
)
def test_a_wrong_override_names_the_field_and_what_is_allowed(word: str, sentence: str) -> None:
    with pytest.raises(ProfileError) as caught:
        profiles.load("w4a6", overrides=[word])
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_file_is_reported_whole(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("quantization: {weight_bits: 9}\nqat: {stages: 5}\ncalibraton: {samples: 3}\n")
    with pytest.raises(ProfileError) as caught:
        profiles.load(path)
    text = str(caught.value)
    assert text.startswith("profile bad: ")
    assert "quantization.weight_bits is 9" in text
    assert "qat.stages is 5; it must be less than or equal to 4" in text
    assert "did you mean calibration?" in text


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("w4a5", "there is no profile 'w4a5'; did you mean"),
        ("none.yaml", "there is no profile file none.yaml"),
        ("folder/none", "there is no profile file folder/none"),
    ],
)
def test_an_unknown_profile(name: str, sentence: str) -> None:
    with pytest.raises(ProfileError, match="there is no profile") as caught:
        profiles.load(name)
    assert sentence in str(caught.value)


def test_an_unknown_model() -> None:
    with pytest.raises(ProfileError, match=r"there is no model 'nan'; did you mean nano\? \(built in: base, "):
        profiles.load("w4a6", model="nan")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("qat: {stages: 1}\nqat: {stages: 2}\n", "qat stands twice"),
        ("- 1\n", "is not a profile: it must be sections with fields, not list"),
        ("qat: {stages\n", "line 2 is not YAML"),
        ("model: 3\n", "model is 3; allowed: a name, or a mapping"),
        ("qat: 3\n", "qat is 3; allowed: fields "),
        ("!!python/object/apply:os.system ['true']\n", "not YAML"),
    ],
)
def test_a_file_that_is_no_profile(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ProfileError) as caught:
        profiles.load(path)
    assert sentence in str(caught.value)


@pytest.mark.parametrize("seeds", ["[0]", "[1, 1]"])
def test_further_seeds_are_others(seeds: str) -> None:
    with pytest.raises(ProfileError, match="more_seeds"):
        profiles.load("float", overrides=[f"data.more_seeds={seeds}"])


def test_the_float_profile_takes_ones_own_data() -> None:
    assert profiles.load("float", overrides=["data.source=/data/nuscenes"]).data.source == "/data/nuscenes"


def test_steps_of_a_stage_are_one_number_or_one_for_each_part() -> None:
    assert profiles.load("w4a6", overrides=["qat.steps_per_stage=5"]).qat.steps() == 20
    own = profiles.load("w4a6", overrides=["qat.steps_per_stage=[1, 2, 3, 4]"]).qat
    assert (own.steps(["neck"]), own.steps(["encoder", "decoder"]), own.steps()) == (2, 7, 10)
    for wrong in ("[1, 2, 3]", "-1", "some"):
        with pytest.raises(ProfileError, match=r"qat\.steps_per_stage"):
            profiles.load("w4a6", overrides=[f"qat.steps_per_stage={wrong}"])


@pytest.mark.parametrize("recipe", profiles.builtin_recipes())
@pytest.mark.parametrize("model", ["nano", "tiny"])
def test_every_recipe_goes_with_any_bits_and_model(recipe: str, model: str) -> None:
    for bits in BITS.keys() - {"float"}:
        plain = profiles.load(bits, model=model)
        profile = profiles.load(bits, model=model, recipes=[recipe])
        assert profile.name == f"{bits}-{recipe}"
        assert profile.model == plain.model
        assert profile.quantization.label == plain.quantization.label
        assert profile.overrides == (f"model={model}", f"recipe={recipe}")
        assert profile.content() != plain.content()


def test_overrides_go_over_recipes_and_later_recipes_over_earlier(tmp_path: Path) -> None:
    path = tmp_path / "faster.yaml"
    path.write_text("qat: {learning_rate: 1e-3}\n")
    profile = profiles.load("w4a6", recipes=["paper", str(path)], overrides=["quantization.weight_range=frozen"])
    assert (profile.qat.learning_rate, profile.qat.other_multiplier) == (1e-3, 1)
    assert (profile.quantization.weight_range, profile.quantization.training_observer) == ("frozen", None)
    assert profile.name == "w4a6-paper-faster"


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        ("papper", "there is no recipe 'papper'; did you mean paper?"),
        ("model: {channels: 32}\n", "recipe mine states model, which belongs into a profile or a model"),
        ("qat: {rate: 1}\n", "qat.rate"),
    ],
)
def test_a_wrong_recipe_is_refused(recipe: str, sentence: str, tmp_path: Path) -> None:
    if ":" in recipe:
        path = tmp_path / "mine.yaml"
        path.write_text(recipe)
        recipe = str(path)
    with pytest.raises(ProfileError, match=re.escape(sentence)):
        profiles.load("w4a6", recipes=[recipe])


def test_a_path_that_leads_to_no_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "circle.yaml").symlink_to(tmp_path / "circle.yaml")
    with pytest.raises(ProfileError, match=r"circle\.yaml is a link that leads nowhere"):
        profiles.load(str(tmp_path / "circle.yaml"))
    with pytest.raises(ProfileError, match="is a folder"):
        profiles.load(f"{tmp_path}/")
