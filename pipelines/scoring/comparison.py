"""Paired intervals: how much of a difference in NDS between two evaluations the choice of scenes explains."""

from __future__ import annotations

from collections.abc import Sequence

from tqdm import tqdm

from pipelines.assembly.samples import Split
from pipelines.lineage.chain import RESULTS, Link
from pipelines.scoring.prediction import Results, evaluation_split
from pipelines.store.artifacts import Artifact
from profiles import Profile
from qdbev.evaluation.bootstrap import paired_bootstrap
from qdbev.evaluation.matching import Matches, match
from qdbev.evaluation.nuscenes import ground_truth, predicted_boxes
from qdbev.evaluation.submission import submission


def intervals_to_first(
    links: Sequence[Link], *, profile: Profile, progress: bool = False
) -> dict[str, dict[str, float]]:
    """95 % intervals of NDS minus the first link's NDS, by name; empty where the profile asks for no resamples.

    Args:
        links: Evaluated models, the float one first.
        profile: Its evaluation section.
        progress: Show a bar.
    """
    if profile.evaluation.bootstrap_resamples < 2 or len(links) < 2:
        return {}
    first, *others = links
    assert first.evaluation is not None
    base = matches_of(first.evaluation, profile=profile)
    found = {}
    for link in tqdm(others, desc="intervals", unit="model", disable=not progress):
        assert link.evaluation is not None
        found[link.name] = interval(base, matches_of(link.evaluation, profile=profile), profile=profile)
    return found


def interval_between(one: Link, other: Link, *, profile: Profile) -> dict[str, float]:
    """The 95 % interval of ``other``'s NDS minus that of ``one``; empty where the profile asks for no resamples."""
    if profile.evaluation.bootstrap_resamples < 2:
        return {}
    assert one.evaluation is not None and other.evaluation is not None
    base = matches_of(one.evaluation, profile=profile)
    return interval(base, matches_of(other.evaluation, profile=profile), profile=profile)


def matches_of(evaluation: Artifact, *, profile: Profile) -> Matches:
    """The submission of an evaluation matched with the ground truth, scene by scene."""
    split = evaluation_split(profile)
    truth = ground_truth(split.root, version=split.version, scenes=split.scenes)
    boxes = predicted_boxes(evaluation.file(RESULTS), truth=truth)
    return match(truth.boxes, predictions=boxes, scene_of=truth.scene_of)


def match_results(results: Results, *, split: Split) -> Matches:
    """The same for result entries that are not sealed."""
    truth = ground_truth(split.root, version=split.version, scenes=split.scenes)
    boxes = predicted_boxes(submission(results), truth=truth)
    return match(truth.boxes, predictions=boxes, scene_of=truth.scene_of)


def interval(base: Matches, other: Matches, *, profile: Profile) -> dict[str, float]:
    """The interval of NDS of ``other`` minus that of ``base``: value, low, high and standard deviation."""
    section = profile.evaluation
    nds = paired_bootstrap(base, b=other, resamples=section.bootstrap_resamples, seed=profile.seed)["NDS"]
    return {"value": nds.value, "low": nds.low, "high": nds.high, "deviation": nds.deviation}
