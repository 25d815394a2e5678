"""A profile's rig as rules of scoring and as what is read of tables: nuScenes' are the library's own."""

from __future__ import annotations

import pytest
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.utils.color_map import get_colormap

from pipelines.assembly.samples import layout_of
from pipelines.scoring.absent import best_sentence
from pipelines.scoring.rules import rules_of
from profiles.sections.rig import NUSCENES_RIG, RigProfile
from qdbev.data.nuscenes.layout import NUSCENES as LAYOUT
from qdbev.evaluation.rules import NUSCENES as RULES
from qdbev.evaluation.rules import perfect


def test_nuscenes_rig_is_what_the_library_has() -> None:
    assert rules_of(NUSCENES_RIG) == RULES
    assert layout_of(NUSCENES_RIG) == LAYOUT
    named = {name: category_to_detection_name(name) for name in get_colormap()}
    assert RULES.class_of == LAYOUT.class_of == {name: found for name, found in named.items() if found}


def test_the_devkits_rules_are_nuscenes() -> None:
    assert RULES.class_names[:4] == ("car", "truck", "bus", "trailer")  # its order, not that of labels
    assert RULES.no_value == {
        ("traffic_cone", "attr_err"), ("traffic_cone", "vel_err"), ("traffic_cone", "orient_err"),
        ("barrier", "attr_err"), ("barrier", "vel_err"),
    }  # fmt: skip
    assert RULES.scores_like_nuscenes and RULES.clock == "LIDAR_TOP" and RULES.max_boxes_per_sample == 500


def test_without_a_lidar_the_first_camera_says_when_it_is() -> None:
    rig = RigProfile(lidar=None, frame="vehicle", cameras=("LEFT", "RIGHT"))
    assert (rules_of(rig).clock, layout_of(rig).clock, layout_of(rig).sensors) == ("LEFT", "LEFT", ("LEFT", "RIGHT"))


def test_the_best_that_can_be_reached_without_some_classes() -> None:
    best = perfect(RULES, absent=["trailer", "construction_vehicle"])
    # 8 of 10 classes; translation and scale of 10, orientation of 9, velocity and attribute of 8
    assert best.mean_ap == pytest.approx(0.8)
    assert best.nds == pytest.approx((5 * 0.8 + 0.8 + 0.8 + 7 / 9 + 6 / 8 + 6 / 8) / 10)
    sentence = best_sentence(["trailer", "construction_vehicle"], rig=NUSCENES_RIG, split="val")
    assert sentence.endswith("so mAP is at most 0.80 and NDS at most 0.788")
    assert best_sentence(["car"], rig=NUSCENES_RIG, split="train").endswith("(car): a detector does not learn them")
