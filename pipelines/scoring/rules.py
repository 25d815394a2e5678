"""A profile's rig as the rules that its boxes are scored by."""

from __future__ import annotations

from profiles.sections.rig import RigProfile
from qdbev.evaluation.rules import ClassRule, Rules, in_scoring_order


def rules_of(rig: RigProfile) -> Rules:
    """Ranges, categories and attributes of a rig's classes; those of nuScenes' rig are the library's ``NUSCENES``."""
    rules = {
        row.name: ClassRule(
            row.name, row.range_m, tuple(sorted(row.categories)), row.moving, row.still, row.without, row.half_turn
        )
        for row in rig.classes
    }
    return Rules(
        rig.scored_as,
        tuple(rules[name] for name in in_scoring_order(list(rules))),
        rig.attributes,
        clock=rig.lidar or rig.cameras[0],
        max_boxes_per_sample=rig.max_boxes,
    )
