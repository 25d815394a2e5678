"""Result entries of a detector's boxes: collected sample by sample, brought together from all processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pipelines.assembly.samples import Split
from pipelines.scoring.rules import rules_of
from pipelines.store import processes
from qdbev.evaluation.submission import left_out, sample_result


class Results(dict[str, list[dict[str, Any]]]):
    """Result entries by sample token, and how many predicted boxes are not among them."""

    def __init__(
        self, entries: Mapping[str, list[dict[str, Any]]] = MappingProxyType({}), *, left_out: Counter[str]
    ) -> None:
        super().__init__(entries)
        self.left_out = left_out
        """Number of predicted boxes that were left out, by reason."""
        self.frame_s: float | None = None
        """Seconds that this process took for a frame; None where it ran none."""

    @property
    def boxes(self) -> int:
        """Number of entries."""
        return sum(map(len, self.values()))

    def says_left_out(self) -> str:
        """What was left out, in a sentence; empty where nothing was."""
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.left_out.items() if count)
        whole = self.left_out.total() + self.boxes
        return f"{self.left_out.total()} of {whole} predicted boxes do not count: {reasons}" if reasons else ""


def together(results: Results, *, split: Split) -> Results:
    """The results of all processes, in each of them, in the order of the split's samples.

    The order decides scores: among boxes of equal confidence the devkit takes the later one first.
    """
    shares = processes.gathered((dict(results), results.left_out))
    entries = {token: listed for share, _ in shares for token, listed in share.items()}
    ordered = {sample["token"]: entries[sample["token"]] for sample in split.samples}
    return Results(ordered, left_out=sum((counts for _, counts in shares), Counter()))


class ResultCollector:
    """Turns predicted boxes into result entries, sample by sample."""

    def __init__(self, split: Split, *, max_boxes: int) -> None:
        self._poses = {sample["token"]: sample for sample in split.samples}
        self._max_boxes = max_boxes
        self._classes, self._rules = split.rig.class_names, rules_of(split.rig)
        self.results = Results(left_out=Counter())

    def __call__(self, token: str, boxes: Any) -> None:
        """Add one sample's ``InstanceData``."""
        pose, best = self._poses[token], slice(self._max_boxes)
        arrays: dict[str, Any] = {
            "boxes": boxes.bboxes_3d.tensor[best].cpu().numpy(),
            "scores": boxes.scores_3d[best].cpu().numpy(),
            "labels": boxes.labels_3d[best].cpu().numpy(),
            "lidar2ego": pose["lidar2ego"],
            "classes": self._classes,
            "rules": self._rules,
        }
        self.results[token] = sample_result(**arrays, token=token, ego2global=pose["ego2global"])
        self.results.left_out.update(left_out(**arrays))
