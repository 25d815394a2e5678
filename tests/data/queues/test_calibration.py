"""Calibration samples are scenes from their start, by the seed."""

from __future__ import annotations

from typing import Any

import pytest

from qdbev.data.queues.calibration import calibration_samples, calibration_tokens


@pytest.fixture
def samples() -> list[dict[str, Any]]:
    return [
        {"token": f"scene-000{scene}-{frame}", "scene": f"scene-000{scene}", "index_in_scene": frame}
        for scene in (1, 2, 3)
        for frame in range(3)
    ]


def test_calibration_takes_scenes_from_their_start(samples: list[dict[str, Any]]) -> None:
    tokens = calibration_tokens(samples, count=5, seed=0)
    assert len(tokens) == 5 and tokens == calibration_tokens(samples[::-1], count=5, seed=0)
    scenes = [token.rsplit("-", 1)[0] for token in tokens]
    assert scenes[:3] == [scenes[0]] * 3 and scenes[3:] == [scenes[3]] * 2 and scenes[0] != scenes[3]
    assert [int(token[-1]) for token in tokens] == [0, 1, 2, 0, 1]
    assert len({calibration_tokens(samples, count=3, seed=seed)[0] for seed in range(20)}) == 3
    with pytest.raises(ValueError, match="1 to 9"):
        calibration_tokens(samples, count=10, seed=0)


def test_tokens_are_those_of_the_samples(samples: list[dict[str, Any]]) -> None:
    chosen = calibration_samples(samples, count=4, seed=2)
    assert [sample["token"] for sample in chosen] == calibration_tokens(samples, count=4, seed=2)
