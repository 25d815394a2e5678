"""What each layer's bits alone cost in NDS: the loss of a bit plan by measured scores, on scenes of the train split.

    loss = max(0, NDS of the float network - NDS with that layer's weights, or inputs, at b bits) + tie

The difference of one layer is noisy and may be negative, so it is cut off at zero. ``tie`` is the output error, scaled
so that of all layers together it weighs 0.0001 NDS: it orders what the scores cannot tell apart, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipelines.assembly.job import Job
from pipelines.assembly.quantized import Quantized
from pipelines.assembly.samples import Split
from pipelines.bit_planning.candidates import Choice, Losses, Measured, Tensors, choices_of
from pipelines.scoring.prediction import score_results
from pipelines.scoring.shared_run import Row, SharedRun
from pipelines.store import processes
from profiles import Profile
from profiles.sections.schedule import PARTS
from qdbev.data.queues.calibration import calibration_samples
from qdbev.quantization import set_sites

FLOAT = Choice("", "weights", 32)
"""Stands for the float network among the scores."""
_TIE_NDS = 1e-4
_SIDE_BY_SIDE = 16
"""Choices that share the float network's stages; each has a history of its own, and an interruption loses so many."""


def scored_split(split: Split, *, profile: Profile) -> Split:
    """The scenes that choices are scored on: whole ones of the train split, drawn in calibration's order.

    Args:
        split: Of training.
        profile: Its ``bit_plan.scenes`` says how many, ``calibration.seed`` which.

    Raises:
        ValueError: There are fewer.
    """
    wanted, there = profile.bit_plan.scenes, len(split.scenes)
    if wanted > there:
        raise ValueError(f"bit_plan.scenes is {wanted}, but the train split has {there}; ask for 1 to {there}")
    drawn = calibration_samples(split.samples, count=len(split.samples), seed=profile.calibration.seed)
    return split.only(list(dict.fromkeys(sample["scene"] for sample in drawn))[:wanted])


def score_losses(
    candidates: Mapping[int, Quantized],
    *,
    output: Losses,
    job: Job,
    split: Split,
    tensors: Sequence[Tensors],
    scratch: Path,
) -> Measured:
    """The drop of NDS for every layer, tensor and number of bits; goes on where an interrupted one stopped.

    Args:
        candidates: Bits -> the detector with all layers at these bits, calibrated, everything off.
        output: Output errors of the same choices, which break ties.
        job: Its model, evaluation, data and device sections; whether a bar is shown.
        split: What is scored: ``scored_split``.
        tensors: ``weights``, ``inputs`` or both.
        scratch: Folder that keeps the scores measured so far.
    """
    scores, quiet = KeptScores(scratch), replace(job, progress=False)
    choices = {
        choice: part
        for bits, candidate in candidates.items()
        for kind in tensors
        for choice, part in choices_of(candidate.detector, tensors=kind, bits=bits)
    }
    with tqdm(total=len(choices) + 1, desc="NDS of each choice", unit="evaluation", disable=not job.progress) as bar:
        bar.update(len(scores.by_choice))
        for group in _groups({FLOAT: "backbone"} | choices, without=scores.by_choice):
            quantized = candidates.get(group[0].bits, next(iter(candidates.values())))
            rows = [
                Row(choice.path, choices.get(choice, ""), frozenset(filter(None, [choice.path]))) for choice in group
            ]
            run = SharedRun(quantized, rows=rows, split=split, job=quiet, tensors=group[0].tensors)
            results = run.run()
            set_sites(quantized.detector, ())
            scores.keep({choice: score_results(results[choice.path], split=split).nds for choice in group})
            bar.update(len(group))
    reference = scores.by_choice[FLOAT]
    drops = {choice: max(0.0, reference - scores.by_choice[choice]) for choice in choices}
    ties = _ties(output)
    losses = {choice: drop + ties[choice] for choice, drop in drops.items()}
    listed = [{**choice._asdict(), "NDS": scores.by_choice[choice]} for choice in choices]
    return Measured(losses, {"traces": {}, "scores": {"float": reference, "layers": listed}})


class KeptScores:
    """NDS by choice, kept in a file from group to group.

    Args:
        folder: Where the file is or goes.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "scores.json"
        self.by_choice: dict[Choice, float] = processes.agreed(self._read)

    def keep(self, scores: Mapping[Choice, float]) -> None:
        """Add scores; the file is replaced whole, so that it is never half written."""
        self.by_choice |= scores
        if processes.is_first():
            written = self._file.with_suffix(".new")
            written.write_text(json.dumps([[*choice, nds] for choice, nds in self.by_choice.items()]), encoding="utf-8")
            written.replace(self._file)

    def _read(self) -> dict[Choice, float]:
        if not self._file.is_file():
            return {}
        rows: Any = json.loads(self._file.read_text(encoding="utf-8"))
        return {Choice(path, tensors, bits): nds for path, tensors, bits, nds in rows}


def _groups(choices: Mapping[Choice, str], *, without: Iterable[Choice]) -> Iterator[list[Choice]]:
    """Choices of the same bits, tensors and part, so many at a time: these share most of the float network's work."""
    done = set(without)

    def place(choice: Choice) -> tuple[int, str, int]:
        return choice.bits, choice.tensors, PARTS.index(choices[choice])

    left = sorted((choice for choice in choices if choice not in done), key=place)
    for _, alike in groupby(left, key=place):
        group = list(alike)
        yield from (group[start : start + _SIDE_BY_SIDE] for start in range(0, len(group), _SIDE_BY_SIDE))


def _ties(output: Losses) -> Losses:
    """Output errors, scaled so that the largest of every layer add up to the weight of ties."""
    largest: dict[tuple[str, Tensors], float] = {}
    for choice, loss in output.items():
        key = choice.path, choice.tensors
        largest[key] = max(largest.get(key, 0.0), loss)
    whole = sum(largest.values())
    return {choice: _TIE_NDS * loss / whole if whole else 0.0 for choice, loss in output.items()}
