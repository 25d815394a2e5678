"""A submission, from its file or as a dict, to the boxes of some samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from qdbev.evaluation.boxes import Boxes, boxes_of_entries, joined
from qdbev.evaluation.json_parts import NotJson, from_submission, whole
from qdbev.evaluation.rules import NUSCENES, Rules

Submission = Mapping[str, Any] | Path | str
Part = tuple[list[int], Boxes]


def boxes_of(submission: Submission, *, scene_of: Mapping[str, str], rules: Rules = NUSCENES) -> Boxes:
    """The boxes of a submission on some samples.

    Args:
        submission: The result dict (``{"meta", "results"}``) or a JSON file of it; other samples are ignored.
        scene_of: Scene name by sample token; samples are numbered in its order.
        rules: Which classes and attributes there are, and how many boxes.

    Raises:
        ValueError: The file is no submission, a sample is missing or has too many boxes, or the devkit would not take
            one of them.
    """
    numbers = {token: number for number, token in enumerate(scene_of)}
    make = partial(_part, numbers=numbers, rules=rules)
    parts = [make(submission)] if isinstance(submission, Mapping) else _read(Path(submission), make=make)
    there = {number for held, _ in parts for number in held}
    if missing := [token for token, number in numbers.items() if number not in there]:
        raise ValueError(
            f"the submission lacks {len(missing)} of {len(scene_of)} samples, first {missing[0]} of "
            f"{scene_of[missing[0]]}; give every sample of the scenes an entry, if only an empty list."
        )
    return joined([boxes for _, boxes in parts])


def _part(content: Any, *, numbers: Mapping[str, int], rules: Rules) -> Part:
    """The numbers of the samples that a part of a submission holds, and their boxes."""
    results = content.get("results") if isinstance(content, Mapping) else None
    if not isinstance(results, Mapping):
        raise ValueError(
            "a submission holds 'results', a dict from sample token to a list of boxes; this one does not."
        )
    tokens = [token for token in results if token in numbers]
    try:
        for token in tokens:
            _check(results[token], token=token, most=rules.max_boxes_per_sample)
        entries = [entry for token in tokens for entry in results[token]]
        counts = [len(results[token]) for token in tokens]
        there = [numbers[token] for token in tokens]
        sample = np.repeat(np.array(there, dtype=np.int64), counts)
        return there, boxes_of_entries(entries, sample=sample, rules=rules)
    except (LookupError, TypeError, ArithmeticError) as error:
        raise ValueError(
            f"the submission has a box nuScenes does not accept ({type(error).__name__}: {error})."
        ) from error


def _check(entries: Sequence[Mapping[str, Any]], *, token: str, most: int) -> None:
    if len(entries) > most:
        raise ValueError(f"sample {token} has {len(entries)} boxes, nuScenes allows {most}.")
    if others := set(map(itemgetter("sample_token"), entries)) - {token}:
        raise ValueError(f"a box of sample {others.pop()} stands under sample {token}.")


def _read(path: Path, *, make: Callable[[Any], Part]) -> list[Part]:
    """What ``make`` makes of the parts of a file."""
    try:
        parts = from_submission(path, make=make)
        there = [number for numbers, _ in parts for number in numbers]
        return parts if len(there) == len(set(there)) else [make(whole(path))]
    except OSError as error:
        raise ValueError(
            f"submission {path} cannot be read ({error.strerror}); give the file `evaluate` wrote."
        ) from error
    except NotJson as error:
        raise ValueError(f"submission {path} is not JSON ({error}); write it again.") from error
