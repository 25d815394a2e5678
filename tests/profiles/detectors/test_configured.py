"""A model known by its mmdet3d config: where the config is looked for, what its digest covers, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

import profiles
from profiles import Profile, ProfileError, fingerprint
from profiles.description import as_yaml
from profiles.detectors.config_files import config_digest

YAML = """
model:
  detector: mmdet3d
  weights: random
  mmdet3d:
    config: own.py
    parts: {backbone: [backbone], decoder: [bbox_head]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "base.py").write_text("model = dict(type='A')\n")
    (tmp_path / "own.py").write_text("_base_ = ['./base.py']\n")
    (tmp_path / "model.yaml").write_text(YAML)
    return tmp_path


def load(folder: Path, *words: str) -> Profile:
    return profiles.load("w4a6", model=str(folder / "model.yaml"), overrides=words)


def test_the_config_is_seen_from_the_models_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    model = load(folder).model
    assert model.mmdet3d.config == str(folder / "own.py")
    assert (model.backbone_paths, model.empty_parts) == (("backbone",), ("neck", "encoder"))


@pytest.mark.parametrize("name", ["own.py", "base.py"])
def test_the_digest_follows_the_config_and_what_it_is_based_on(folder: Path, name: str) -> None:
    before = load(folder)
    with (folder / name).open("a") as file:
        file.write("extra = 1\n")
    assert fingerprint(load(folder).content()) != fingerprint(before.content())


def test_the_digest_does_not_follow_where_the_config_lies(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for path in list(folder.glob("*.*")):
        (other / path.name).write_bytes(path.read_bytes())
    one, two = load(folder), load(other)
    assert one.model.mmdet3d.config != two.model.mmdet3d.config
    assert one.model.content() == two.model.content()


@pytest.mark.parametrize(
    "word",
    [
        "model.mmdet3d.options={model.a: 1}",
        "model.mmdet3d.parts.neck=[neck]",
        "model.mmdet3d.output_layers=[bbox_head.last]",
        "model.mmdet3d.taps.image=neck",
        "model.mmdet3d.taps.bev=neck",
    ],
)
def test_every_field_changes_the_key(folder: Path, word: str) -> None:
    assert fingerprint(load(folder, word).content()) != fingerprint(load(folder).content())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("bases.yaml", "_base_: base.py\n"),
        ("bases.json", '{"_base_": ["base.py"]}'),
        ("bases.py", "from mmengine.config import read_base\nwith read_base():\n    from .base import *\n"),
    ],
)
def test_bases_are_found_in_every_form_of_config(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    before = config_digest(folder / name)
    (folder / "base.py").write_text("model = dict(type='B')\n")
    assert config_digest(folder / name) != before


def test_a_base_of_a_package_counts_by_its_name(folder: Path) -> None:
    (folder / "own.py").write_text("_base_ = 'mmdet3d::_base_/models/fcos3d.py'\n")
    assert len(config_digest(folder / "own.py")) == 64


def test_a_config_based_on_itself_is_refused(folder: Path) -> None:
    (folder / "base.py").write_text("_base_ = ['own.py']\n")
    with pytest.raises(ProfileError, match="based on itself"):
        load(folder)


def test_printed_profile_loads_back(folder: Path, tmp_path: Path) -> None:
    profile = load(folder)
    (tmp_path / "printed.yaml").write_text(as_yaml(profile))
    assert profiles.load(tmp_path / "printed.yaml").model == profile.model


def test_a_printed_profile_insists_on_its_config(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "printed.yaml").write_text(as_yaml(load(folder)))
    (folder / "base.py").write_text("model = dict(type='B')\n")
    with pytest.raises(ProfileError, match=r"own\.py is not the one meant: its sha256 is [0-9a-f]{12}"):
        profiles.load(tmp_path / "printed.yaml")


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("config: own.py", "config: lost.py", "cannot be read: No such file"),
        ("    config: own.py\n", "", "detector mmdet3d needs mmdet3d.config"),
        ("detector: mmdet3d", "detector: bevformer", "state detector: mmdet3d too"),
        ("weights: random", "weights: random\n  channels: 32\n  bev: {rows: 9}", "bev, channels describe BEVFormer"),
        ("{backbone: [backbone], ", "{head: [a], ", "head"),
    ],
)
def test_what_does_not_fit_is_said(folder: Path, old: str, new: str, sentence: str) -> None:
    (folder / "model.yaml").write_text(YAML.replace(old, new))
    with pytest.raises(ProfileError) as caught:
        load(folder)
    assert sentence in str(caught.value)


def test_taps_left_out_leave_the_digest_of_earlier_artifacts_alone(folder: Path) -> None:
    assert "taps" not in load(folder).model.mmdet3d.content()
    assert load(folder, "model.mmdet3d.taps.bev=neck").model.tapped == ("bev",)


def test_bevformers_digest_knows_nothing_of_configs() -> None:
    assert "mmdet3d" not in profiles.load("w4a6").model.content()
