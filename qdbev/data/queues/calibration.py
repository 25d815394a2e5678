"""Calibration samples: whole scenes of the training split, in the order of time, drawn by a seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def calibration_samples(samples: Sequence[dict[str, Any]], *, count: int, seed: int) -> list[dict[str, Any]]:
    """``count`` samples: scenes drawn by ``seed``, one after another, each from its first frame in the order of time.

    Only the last scene may end early, so a temporal model always sees a scene from its start.

    Raises:
        ValueError: fewer samples than asked for.
    """
    if not 1 <= count <= len(samples):
        raise ValueError(
            f"calibration wants {count} samples, but {len(samples)} are there; ask for 1 to {len(samples)}."
        )
    scenes: dict[str, list[dict[str, Any]]] = {}
    for sample in samples:
        scenes.setdefault(sample["scene"], []).append(sample)
    names = sorted(scenes)
    order = np.random.default_rng([seed]).permutation(len(names))
    chosen = [sample for place in order for sample in sorted(scenes[names[place]], key=lambda s: s["index_in_scene"])]
    return chosen[:count]


def calibration_tokens(samples: Sequence[dict[str, Any]], *, count: int, seed: int) -> list[str]:
    """Tokens of ``calibration_samples``."""
    return [sample["token"] for sample in calibration_samples(samples, count=count, seed=seed)]
