"""Classes without ground truth, which the devkit counts as not found: what that does to scores, in a sentence."""

from __future__ import annotations

import json

from pipelines.assembly.samples import Split
from pipelines.lineage.kinds import DETAILS
from pipelines.scoring.rules import rules_of
from pipelines.store.artifacts import Artifact
from profiles.sections.rig import RigProfile
from profiles.wording import counted
from qdbev.evaluation.ground_truth import ground_truth
from qdbev.evaluation.rules import perfect
from qdbev.evaluation.scores import nds_over


def absent_sentence(evaluation: Artifact, *, split: Split) -> str:
    """What classes without ground truth do to an evaluation; empty where all have some."""
    scored = json.loads(evaluation.file(DETAILS).read_text(encoding="utf-8"))
    rows = scored["classes"]
    if all(row["AP"] for row in rows.values()):  # found, so there
        return ""
    rules = rules_of(split.rig)
    truth = ground_truth(split.root, version=split.version, scenes=split.scenes, rules=rules)
    there = {rules.class_names[label] for label in set(truth.boxes.label.tolist())}
    absent = [name for name in rules.class_names if name not in there]
    if not absent:
        return ""
    over = nds_over({name: row for name, row in rows.items() if name in there})
    samples = counted(len(split.samples), "sample")
    return (
        f"{len(absent)} of {len(rows)} classes have no ground truth in {samples} ({', '.join(absent)}): each counts as "
        f"AP 0 with errors of 1; over the other {len(there)} NDS is {over:.4f}, not {scored['nds']:.4f}"
    )


def best_sentence(absent: list[str], *, rig: RigProfile, split: str) -> str:
    """What the best detector could reach on a split that lacks some classes; of ``train``: what is not learned."""
    lacks = (
        f"split {split} has no box with a point of {len(absent)} of {len(rig.classes)} classes ({', '.join(absent)})"
    )
    if split == "train":
        return f"{lacks}: a detector does not learn them"
    best = perfect(rules_of(rig), absent=absent)
    most = f"mAP is at most {best.mean_ap:.2f} and NDS at most {best.nds:.3f}"
    return f"{lacks}: each counts as AP 0 with errors of 1, so {most}"
