"""Rigs of data sets: nuScenes' by default, others by name, by extension or in full."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import profiles
from profiles import ProfileError
from profiles.sections.rig import NUSCENES_RIG, ClassProfile, RigProfile, sealed_rig


def loaded(*words: str) -> RigProfile:
    return profiles.load("w4a6", overrides=list(words)).data.rig


def test_nuscenes_by_itself_and_out_of_the_digest() -> None:
    profile = profiles.load("w4a6")
    assert profile.data.rig == NUSCENES_RIG == loaded("data.rig=nuscenes")
    assert "rig" not in profile.data.content() and "rig" not in profile.deciding("model")
    assert NUSCENES_RIG.tasks == ((0,), (1, 2), (3, 4), (5,), (6, 7), (8, 9))
    ranges = {row.name: row.range_m for row in NUSCENES_RIG.classes}
    assert list(ranges.values()) == [50, 50, 50, 50, 50, 30, 40, 40, 40, 30]


def test_another_rig_enters_the_keys_of_what_is_made_with_it() -> None:
    profile = profiles.load("w4a6", overrides=["data.rig.max_boxes=300"])
    assert profile.deciding("model")["rig"]["max_boxes"] == 300
    assert "rig" not in profile.deciding("quantization")
    assert sealed_rig(profile.content()) == profile.data.rig
    assert sealed_rig({"data": {"source": "synthetic"}}) == NUSCENES_RIG


def test_a_file_of_ones_own_extends_another_and_single_fields_lie_over_it(tmp_path: Path) -> None:
    path = tmp_path / "shuttle.yaml"
    path.write_text(yaml.safe_dump({"extends": "nuscenes", "cameras": ["FRONT", "BACK"], "lidar": "TOP"}))
    rig = loaded(f"data.rig={path}", "data.rig.max_boxes=7")
    assert (rig.name, rig.cameras, rig.lidar, rig.max_boxes) == ("shuttle", ("FRONT", "BACK"), "TOP", 7)
    assert rig.classes == NUSCENES_RIG.classes


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("data.rig=nuscene", "data.rig: there is no rig 'nuscene'; did you mean nuscenes?"),
        ("data.rig.cameras=[A, A]", "data.rig: the camera A stands twice"),
        ("data.rig.cameras=[LIDAR_TOP]", "data.rig: LIDAR_TOP is a camera and the LiDAR"),
        ("data.rig.lidar=null", "data.rig: frame is lidar, and lidar is null: state frame: vehicle"),
        ("data.rig.attributes=[]", "class car takes the attribute vehicle.moving, which attributes does not list"),
        ("data.rig.groups=[[car]]", "data.rig: groups must hold each class once"),
        ("data.rig.classes=[]", "data.rig.classes is"),
    ],
)
def test_what_no_rig_can_be(word: str, sentence: str) -> None:
    with pytest.raises(ProfileError) as caught:
        loaded(word)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_rigs_that_a_detector_does_not_move_between() -> None:
    fewer = RigProfile(cameras=("A", "B"))
    assert fewer.differs(NUSCENES_RIG) == "2 cameras, not 6"
    other = RigProfile(classes=(ClassProfile(name="tram", categories=("t",), range_m=1),))
    assert other.differs(NUSCENES_RIG) == "1 classes (tram), not the same 10"
    renamed = RigProfile(cameras=tuple(f"VIEW_{number}" for number in range(6)), max_boxes=3)
    assert renamed.differs(NUSCENES_RIG) == ""
