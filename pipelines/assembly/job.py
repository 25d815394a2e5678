"""A job: what one command is to do, where, and how loudly, with the answers that everybody on its way asks for.

Each answer (the bit plan, the samples of a split, the device) is found once and kept for the whole job and for every
job derived from it. Importing this loads no torch; asking for samples or the device does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from pipelines.lineage.bit_plan import bits_by_layer, open_plan, samples_of
from pipelines.store import processes
from pipelines.store.artifacts import Artifact, Store
from profiles import Profile

if TYPE_CHECKING:
    import torch

    from pipelines.assembly.samples import Split
    from qdbev.data.nuscenes.records import Sample

T = TypeVar("T")
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What is wanted, and where it goes."""

    stated: Profile
    """The profile as stated: its bit plan may go by any name that the store opens."""
    store: Store
    """Where artifacts are found and sealed."""
    force: bool = False
    """Make again what is sealed already."""
    progress: bool = False
    """Show bars."""
    answers: dict[Hashable, Any] = field(default_factory=dict, repr=False, compare=False)
    """What was asked before; shared with the jobs derived from this one."""

    def of(self, profile: Profile) -> Job:
        """The same job for another profile; what was asked before is not asked again."""
        return replace(self, stated=profile)

    @cached_property
    def profile(self) -> Profile:
        """The profile as used, with the digest of its bit plan in place of a name, so that keys say what it holds.

        Raises:
            MissingArtifact: There is no such plan.
            ValueError: It is no bit plan.
        """
        if self.plan is None:
            return self.stated
        section = self.stated.quantization.model_copy(update={"plan": self.plan.digest})
        return self.stated.model_copy(update={"quantization": section})

    @property
    def plan(self) -> Artifact | None:
        """The sealed bit plan of the profile, or None where it states none; raises what ``profile`` does."""
        name = self.stated.quantization.plan
        if name is None:
            return None
        plan: Artifact = self._once(("plan", name), lambda: open_plan(name, store=self.store))
        self.answers["plan", plan.digest] = plan
        return plan

    @property
    def bits(self) -> dict[str, tuple[int, int]] | None:
        """Bits of weights and inputs by the path of each layer; None without a plan."""
        return None if self.plan is None else bits_by_layer(self.plan)

    @property
    def plan_tokens(self) -> list[str]:
        """Tokens of the samples that the bit plan was chosen on; none without a plan."""
        return [] if self.plan is None else samples_of(self.plan)

    def split(self, name: str) -> Split:
        """The samples of ``train``, ``val`` or another split; synthetic scenes are generated where they are missing."""
        from pipelines.assembly.samples import load_split, reads_lidar

        data, lidar = self.stated.data, reads_lidar(self.stated.model)

        def load() -> Split:
            split = load_split(data, name=name, lidar=lidar, progress=self.progress)
            self._tell_of(split)
            return split

        return self._once(("split", data, name, lidar), load)

    def evaluation_split(self, *, scored: bool = True) -> Split:
        """The split that the profile is evaluated on.

        Args:
            scored: Whether scores are wanted; for a submission alone they are not.

        Raises:
            ValueError: Scores of the test split, which has no public ground truth.
        """
        if scored:
            self.refuse_no_ground_truth()
        return self.split(self.stated.evaluation.split)

    def refuse_no_ground_truth(self) -> None:
        """Refuse to score on a split without public ground truth, before any data is read.

        Raises:
            ValueError: The test split.
        """
        if self.stated.evaluation.split == "test":
            raise ValueError(
                "evaluation.split is test, which has no public ground truth to score against; `qdbev evaluate` alone "
                "takes it, and writes the submission"
            )

    def calibration_samples(self) -> list[Sample]:
        """The samples of the train split that set ranges, drawn by the calibration section."""
        from qdbev.data.queues.calibration import calibration_samples

        section = self.stated.calibration
        return calibration_samples(self.split("train").samples, count=section.samples, seed=section.seed)

    @property
    def device(self) -> torch.device:
        """Where it computes.

        Raises:
            ProfileError: The profile's device is not here.
        """
        from pipelines.assembly.detector import device_of

        return self._once(("device", self.stated.device), lambda: device_of(self.stated))

    def _tell_of(self, split: Split) -> None:
        """Say what is odd about data before anything is made of it; a sentence of several splits is said once."""
        from pipelines.assembly.samples import notes_on

        told, notes = self.answers.setdefault("told", set()), notes_on(split)
        for note in notes:
            if note not in told and processes.is_first():
                _LOG.warning("%s", note)
        told.update(notes)

    def _once(self, question: Hashable, answer: Callable[[], T]) -> T:
        if question not in self.answers:
            self.answers[question] = answer()
        value: T = self.answers[question]
        return value
