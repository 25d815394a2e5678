"""Paired intervals: how much of a difference in NDS between two evaluations the choice of scenes explains."""

from __future__ import annotations

from collections.abc import Sequence

from tqdm import tqdm

from pipelines.assembly.job import Job
from pipelines.assembly.samples import Split
from pipelines.lineage.chain import Link
from pipelines.scoring.results import Results
from pipelines.scoring.results_file import results_path
from pipelines.scoring.rules import rules_of
from pipelines.store.artifacts import Artifact
from profiles import Profile
from profiles.sections.evaluation import FEWEST_SCENES
from qdbev.evaluation.ground_truth import GroundTruth, ground_truth
from qdbev.evaluation.matching import Matches
from qdbev.evaluation.resampling.bootstrap import paired_bootstrap
from qdbev.evaluation.scores import matches_of as matched
from qdbev.evaluation.submission import submission


def intervals_to_first(links: Sequence[Link], *, job: Job) -> dict[str, dict[str, float]]:
    """95 % intervals of NDS minus the first link's NDS, by name; empty where ``resampled`` says that there is none.

    Args:
        links: Evaluated models, the float one first.
        job: Its evaluation section; whether a bar is shown.
    """
    first, *others = links
    if not others or not resampled(_scenes(first), profile=job.profile):
        return {}
    base = _matches(first, job=job)
    bar = tqdm(others, desc="intervals", unit="model", disable=not job.progress)
    return {link.name: interval(base, _matches(link, job=job), profile=job.profile) for link in bar}


def interval_between(base: Link, other: Link, *, job: Job) -> dict[str, float]:
    """The 95 % interval of ``other``'s NDS minus that of ``base``; empty where ``resampled`` says so."""
    if not resampled(_scenes(base), profile=job.profile):
        return {}
    return interval(_matches(base, job=job), _matches(other, job=job), profile=job.profile)


def resampled(scenes: int, *, profile: Profile) -> bool:
    """Whether so many scenes give an interval, and the profile asks for one."""
    return scenes >= FEWEST_SCENES and profile.evaluation.bootstrap_resamples > 1


def _scenes(link: Link) -> int:
    assert link.evaluation is not None
    return int(str(link.evaluation.manifest.data["scenes"]))


def _matches(link: Link, *, job: Job) -> Matches:
    assert link.evaluation is not None
    return matches_of(link.evaluation, split=job.evaluation_split())


def matches_of(evaluation: Artifact, *, split: Split) -> Matches:
    """The submission of an evaluation matched with the ground truth of its split, scene by scene."""
    return matched(results_path(evaluation), truth=_truth(split))


def match_results(results: Results, *, split: Split) -> Matches:
    """The same for result entries that are not sealed."""
    return matched(submission(results), truth=_truth(split))


def _truth(split: Split) -> GroundTruth:
    return ground_truth(split.root, version=split.version, scenes=split.scenes, rules=rules_of(split.rig))


def interval(base: Matches, other: Matches, *, profile: Profile) -> dict[str, float]:
    """The interval of NDS of ``other`` minus that of ``base``: value, low, high and standard deviation."""
    section = profile.evaluation
    nds = paired_bootstrap(base, b=other, resamples=section.bootstrap_resamples, seed=profile.seed)["NDS"]
    return {"value": nds.value, "low": nds.low, "high": nds.high, "deviation": nds.deviation}
