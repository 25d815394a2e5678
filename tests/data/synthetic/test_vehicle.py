"""Synthetic trees of other vehicles: sensors, names and tables are theirs; nuScenes' trees stay as they were."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import pytest

from pipelines.assembly.scene import vehicle_of
from profiles.sections.data import DataProfile
from profiles.sections.rig import NUSCENES_RIG
from qdbev.data.synthetic import generate, verify
from qdbev.data.synthetic.settings import Settings
from qdbev.data.synthetic.vehicle import NUSCENES, Thing, Vehicle
from tests.conftest import ROOT

SHUTTLE = str(ROOT / "docs" / "examples" / "rigs" / "shuttle.yaml")


@pytest.fixture(scope="module")
def shuttle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trees") / "shuttle"
    vehicle = vehicle_of(DataProfile.model_validate({"rig": SHUTTLE}).rig)
    generate(root, train_scenes=1, val_scenes=1, key_frames=2, image_size_px=(96, 64), vehicle=vehicle, workers=1)
    return root


def rows(root: Path, name: str) -> list[dict[str, object]]:
    listed: list[dict[str, object]] = json.loads((root / "v1.0-trainval" / f"{name}.json").read_text())
    return listed


def test_nuscenes_trees_say_nothing_of_a_vehicle() -> None:
    assert vehicle_of(NUSCENES_RIG) == NUSCENES
    assert "vehicle" not in Settings("v", 0, 176, 96, 8, "none").as_dict()


def test_sensors_and_files_are_the_vehicles(shuttle: Path) -> None:
    assert {row["channel"] for row in rows(shuttle, "sensor")} == {"front", "right", "rear", "left"}
    assert {path.name for path in (shuttle / "samples").iterdir()} == {"front", "right", "rear", "left"}
    image = cv2.imread(str(next((shuttle / "samples/rear").iterdir())))
    assert image.shape == (64, 96, 3)
    assert verify(shuttle).samples == 4


def test_things_are_called_as_the_rig_calls_them(shuttle: Path) -> None:
    categories = {row["token"]: str(row["name"]) for row in rows(shuttle, "category")}
    named = {categories[str(row["category_token"])] for row in rows(shuttle, "instance")}
    assert {"road.car", "person", "site.sign", "animal"} <= named
    assert not any(name.startswith(("vehicle.", "human.", "movable_object.")) for name in named)
    assert {row["name"] for row in rows(shuttle, "attribute")} == {"moving", "standing"}


def test_names_of_a_thing() -> None:
    walker = Thing("pedestrian", ("human.pedestrian.child", "human"), moving="moves", still="rests")
    vehicle = Vehicle(things=(walker, Thing("car", ("road.car",))), attributes=("moves", "rests", "vehicle.parked"))
    assert vehicle.category("pedestrian", usual="human.pedestrian.child") == "human.pedestrian.child"
    assert vehicle.category("pedestrian", usual="human.pedestrian.adult") == "human.pedestrian.child"
    assert vehicle.category("bus", usual="vehicle.bus.rigid") == "vehicle.bus.rigid"
    assert vehicle.attribute("pedestrian", usual="pedestrian.moving") == "moves"
    assert vehicle.attribute("pedestrian", usual="pedestrian.sitting_lying_down") == "rests"
    assert vehicle.attribute("car", usual="vehicle.parked") == "vehicle.parked"
    assert vehicle.attribute("bus", usual="vehicle.moving") == ""


def test_a_tree_of_one_vehicle_takes_no_scene_of_another(shuttle: Path) -> None:
    with pytest.raises(ValueError, match="holds scenes of other settings"):
        generate(shuttle, train_scenes=1, val_scenes=1, key_frames=2, image_size_px=(96, 64), workers=1)
