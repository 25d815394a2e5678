"""The rules that boxes are scored by: classes and their ranges, attributes, distances; nuScenes' are the devkit's.

Other data sets have other classes. The arithmetic stays that of nuscenes-devkit's detection task, whose source is
``eval/detection``: its configuration, the errors it asks of no box of a class, and its half turns.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.constants import ATTRIBUTE_NAMES, TP_METRICS
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.utils.color_map import get_colormap

MOVING_MPS = 0.2  # BEVFormer's and mmdet3d's rule: faster than this is moving
PARKED = ("bicycle", "motorcycle")  # classes that do not count inside a bicycle rack
ERRORS = {"orientation": "orient_err", "velocity": "vel_err", "attribute": "attr_err"}
"""Errors that a class may be without, by the devkit's name."""


@dataclass(frozen=True)
class ClassRule:
    """How boxes of one class are scored."""

    name: str
    range_m: float
    """From the ego vehicle, beyond which no box counts."""
    categories: tuple[str, ...]
    """Names in the table ``category`` whose annotations are of the class."""
    moving: str = ""
    """Attribute of a predicted box that is faster than ``MOVING_MPS``; empty for none."""
    still: str = ""
    """Attribute of the others."""
    without: tuple[str, ...] = ()
    """Errors that are not asked of it, of ``ERRORS``."""
    half_turn: bool = False
    """Front and back are alike."""


@dataclass(frozen=True)
class Rules:
    """How a submission is scored; classes in the order in which the devkit averages them."""

    name: str
    classes: tuple[ClassRule, ...]
    attributes: tuple[str, ...]
    """Those that a box may have."""
    clock: str = "LIDAR_TOP"
    """Sensor at whose time the place of the ego vehicle is taken."""
    max_boxes_per_sample: int = 500
    mean_ap_weight: int = 5

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, which labels of boxes count in."""
        return tuple(rule.name for rule in self.classes)

    @cached_property
    def class_range(self) -> dict[str, float]:
        """Range in metres by the class."""
        return {rule.name: rule.range_m for rule in self.classes}

    @cached_property
    def class_of(self) -> dict[str, str]:
        """Class by the category."""
        return {category: rule.name for rule in self.classes for category in rule.categories}

    @cached_property
    def rule_of(self) -> dict[str, ClassRule]:
        """Rule by the class."""
        return {rule.name: rule for rule in self.classes}

    @cached_property
    def no_value(self) -> frozenset[tuple[str, str]]:
        """(class, error) of errors that are asked of no box of a class."""
        return frozenset((rule.name, ERRORS[word]) for rule in self.classes for word in rule.without)

    @property
    def scores_like_nuscenes(self) -> bool:
        """Whether a half turn is one for nuscenes-devkit, too: it knows the class ``barrier`` alone."""
        return all(rule.half_turn == (rule.name == "barrier") for rule in self.classes)

    def attribute(self, name: str, *, speed_mps: float) -> str:
        """The attribute a box of a class gets by its speed alone.

        >>> NUSCENES.attribute("car", speed_mps=0.3), NUSCENES.attribute("car", speed_mps=0.2)
        ('vehicle.moving', 'vehicle.parked')
        """
        rule = self.rule_of[name]
        return rule.moving if speed_mps > MOVING_MPS else rule.still


class Perfect(NamedTuple):
    """Scores of a detector that makes no mistake."""

    mean_ap: float
    nds: float


def perfect(rules: Rules, *, absent: Collection[str]) -> Perfect:
    """What is reached where some classes have no ground truth: the devkit gives them AP 0 and errors of 1.

    >>> perfect(NUSCENES, absent=())
    Perfect(mean_ap=1.0, nds=1.0)
    """
    names = rules.class_names
    mean_ap = 1 - len(set(names) & set(absent)) / len(names)
    goodness = 0.0
    for error in TP_METRICS:
        asked = [name for name in names if (name, error) not in rules.no_value]
        goodness += sum(name not in absent for name in asked) / len(asked) if asked else 0.0
    weight = rules.mean_ap_weight
    return Perfect(mean_ap, (weight * mean_ap + goodness) / (weight + len(TP_METRICS)))


def in_scoring_order(names: list[str]) -> list[str]:
    """Class names as they are averaged, for the last bit: nuScenes' in its devkit's order, others as they come.

    >>> in_scoring_order(["tram", "pedestrian", "car"])
    ['tram', 'pedestrian', 'car']
    """
    known = list(CONFIG.class_names)
    return known if set(names) == set(known) else names


CONFIG = config_factory("detection_cvpr_2019")
"""The devkit's configuration; its distances and least recall and precision hold for all rules."""
# class: (attribute above MOVING_MPS, attribute at or below), from mmdet3d's NuScenes formatting
_ATTRIBUTES = {
    "car": ("vehicle.moving", "vehicle.parked"),
    "truck": ("vehicle.moving", "vehicle.parked"),
    "construction_vehicle": ("vehicle.moving", "vehicle.parked"),
    "bus": ("vehicle.moving", "vehicle.stopped"),
    "trailer": ("vehicle.moving", "vehicle.parked"),
    "barrier": ("", ""),
    "motorcycle": ("cycle.with_rider", "cycle.without_rider"),
    "bicycle": ("cycle.with_rider", "cycle.without_rider"),
    "pedestrian": ("pedestrian.moving", "pedestrian.standing"),
    "traffic_cone": ("", ""),
}
_WITHOUT = {"traffic_cone": ("orientation", "velocity", "attribute"), "barrier": ("velocity", "attribute")}


def _nuscenes_class(name: str) -> ClassRule:
    moving, still = _ATTRIBUTES[name]
    categories = tuple(sorted(known for known in get_colormap() if category_to_detection_name(known) == name))
    return ClassRule(
        name, CONFIG.class_range[name], categories, moving, still, _WITHOUT.get(name, ()), name == "barrier"
    )


NUSCENES = Rules(
    "detection_cvpr_2019",
    tuple(_nuscenes_class(name) for name in CONFIG.class_names),
    tuple(ATTRIBUTE_NAMES),
    max_boxes_per_sample=CONFIG.max_boxes_per_sample,
    mean_ap_weight=CONFIG.mean_ap_weight,
)
"""nuScenes' own, of the devkit's configuration."""
