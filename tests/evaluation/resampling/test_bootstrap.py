"""The matcher and the bootstrap against the devkit's DetectionEval, number for number."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.detection.data_classes import DetectionBox

from qdbev.evaluation.devkits.nuscenes import SceneEval
from qdbev.evaluation.matching import Matches, match
from qdbev.evaluation.reading import boxes_of
from qdbev.evaluation.resampling.bootstrap import Interval, paired_bootstrap, scores_of_draws
from qdbev.evaluation.scores import Scores, scores_of

ATTRIBUTE = {"car": "vehicle.moving", "pedestrian": "pedestrian.moving", "bicycle": "cycle.with_rider"}
NAMES = ("car", "pedestrian", "bicycle", "barrier", "traffic_cone")


def random_boxes(rng: np.random.Generator, token: str, *, count: int, scored: bool) -> list[DetectionBox]:
    boxes = []
    for _ in range(count):
        name = str(rng.choice(NAMES))
        yaw = rng.uniform(-np.pi, np.pi)
        boxes.append(
            DetectionBox(
                sample_token=token,
                translation=(*rng.uniform(-8, 8, 2), 0.0),
                size=tuple(rng.uniform(0.5, 4, 3)),
                rotation=(np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)),
                velocity=tuple(rng.normal(size=2)) if rng.random() < 0.9 else (np.nan, np.nan),
                detection_name=name,
                # few distinct scores, so that ties are common
                detection_score=float(rng.integers(1, 12) / 12) if scored else -1.0,
                attribute_name=ATTRIBUTE.get(name, "") if rng.random() < 0.8 else "",
            )
        )
    return boxes


def random_sets(seed: int, *, scenes: int, frames: int = 3) -> tuple[EvalBoxes, EvalBoxes, dict[str, str]]:
    rng = np.random.default_rng(seed)
    truth, found, scene_of = EvalBoxes(), EvalBoxes(), {}
    for scene in range(scenes):
        for frame in range(frames):
            token = f"{scene}-{frame}"
            scene_of[token] = f"scene-{scene}"
            truth.add_boxes(token, random_boxes(rng, token, count=int(rng.integers(0, 14)), scored=False))
            found.add_boxes(token, random_boxes(rng, token, count=int(rng.integers(0, 30)), scored=True))
    return truth, found, scene_of


def devkit_scores(truth: EvalBoxes, found: EvalBoxes) -> Scores:
    return SceneEval(truth, predictions=found).scores()


def matched(truth: EvalBoxes, found: EvalBoxes, scene_of: dict[str, str]) -> Matches:
    """Our matches of the devkit's boxes."""
    rows = (boxes_of({"results": boxes.serialize()}, scene_of=scene_of) for boxes in (truth, found))
    return match(next(rows), predictions=next(rows), scene_of=scene_of)


def drawn(matches: Matches, weights: list[int]) -> tuple[float, float]:
    """NDS and mAP of one multiset of scenes."""
    ((nds, mean_ap),) = scores_of_draws(matches, weights=np.array([weights]))
    return float(nds), float(mean_ap)


@pytest.mark.parametrize("seed", range(6))
def test_all_scenes_once_is_the_devkit(seed: int) -> None:
    truth, found, scene_of = random_sets(seed, scenes=5)
    official = devkit_scores(truth, found)
    own = drawn(matched(truth, found, scene_of), [1] * 5)
    np.testing.assert_allclose(own, (official.nds, official.mean_ap), rtol=0, atol=1e-12)
    assert official.mean_ap > 0
    assert scores_of(matched(truth, found, scene_of)).serialize() == official.serialize()


@pytest.mark.parametrize(
    ("seed", "weights"), [(11, [2, 0, 3, 1]), (12, [4, 0, 0, 0]), (13, [1, 1, 1, 7]), (14, [0, 2, 2, 0])]
)
def test_weights_are_repeated_scenes(seed: int, weights: list[int]) -> None:
    """A draw with repeats scores what the devkit says of a data set that holds those scenes several times."""
    truth, found, scene_of = random_sets(seed, scenes=4)
    for boxes in found.all:  # distinct scores: the devkit orders ties by place, which repeating changes
        boxes.detection_score = float(np.random.default_rng(abs(hash(boxes.translation))).random())
    big_truth, big_found, big_scene_of = EvalBoxes(), EvalBoxes(), {}
    for token, scene in scene_of.items():
        for repeat in range(weights[int(scene.split("-")[1])]):
            name = f"{token}/{repeat}"
            big_scene_of[name] = scene
            for source, target in ((truth, big_truth), (found, big_found)):
                moved = copy.deepcopy(source[token])
                for box in moved:
                    box.sample_token = name
                target.add_boxes(name, moved)
    official = devkit_scores(big_truth, big_found)
    own = drawn(matched(truth, found, scene_of), weights)
    np.testing.assert_allclose(own, (official.nds, official.mean_ap), rtol=0, atol=1e-12)


def test_later_of_two_equal_scores_wins() -> None:
    """Two predictions of one score, 0.3 m and 1.5 m from one car, the better one earlier."""
    truth, found = EvalBoxes(), EvalBoxes()
    shape = {"sample_token": "t", "size": (1.0, 1.0, 1.0), "rotation": (1.0, 0.0, 0.0, 0.0)}
    truth.add_boxes("t", [DetectionBox(translation=(0.0, 0.0, 0.0), **shape)])
    found.add_boxes("t", [DetectionBox(translation=(x, 0.0, 0.0), detection_score=0.5, **shape) for x in (0.3, 1.5)])
    cars = matched(truth, found, {"t": "s"}).classes["car"]
    # best first: the later one (1.5 m) is row 0; it hits at 2 m and 4 m, the other one at 0.5 m and 1 m
    assert [hits.tolist() for hits in cars.hits] == [[1], [1], [0], [0]]
    assert cars.errors[0].tolist() == [1.5]


def test_no_prediction_and_no_truth() -> None:
    truth, found, scene_of = random_sets(3, scenes=2)
    nothing = EvalBoxes()
    for token in scene_of:
        nothing.add_boxes(token, [])
    for a, b in ((truth, nothing), (nothing, found), (nothing, nothing)):
        scores = drawn(matched(a, b, scene_of), [1, 1])
        assert scores == (0.0, 0.0)


def test_paired_bootstrap_of_equal_submissions_is_zero() -> None:
    truth, found, scene_of = random_sets(5, scenes=6)
    matches = matched(truth, found, scene_of)
    result = paired_bootstrap(matches, b=matches, resamples=20, seed=1)
    assert result["NDS"] == Interval(0.0, 0.0, 0.0, 0.0, 0.0)
    assert not result["mAP"].differs


def test_paired_bootstrap_sees_a_clear_difference_and_is_a_function_of_the_seed() -> None:
    truth, found, scene_of = random_sets(5, scenes=8)
    perfect = copy.deepcopy(truth)
    for box in perfect.all:
        box.detection_score = 1.0
    worse, better = (matched(truth, boxes, scene_of) for boxes in (found, perfect))
    once = paired_bootstrap(worse, b=better, resamples=200, seed=7)
    assert once == paired_bootstrap(worse, b=better, resamples=200, seed=7)
    assert once != paired_bootstrap(worse, b=better, resamples=200, seed=8)
    gap = once["mAP"]
    assert gap.low < gap.mean < gap.high and gap.differs and gap.low > 0.2
    swapped = paired_bootstrap(better, b=worse, resamples=200, seed=7)["mAP"]
    assert swapped.low == pytest.approx(-gap.high) and swapped.value == pytest.approx(-gap.value)


def test_interval_is_the_percentile_of_an_independent_loop() -> None:
    truth, found, scene_of = random_sets(2, scenes=5)
    _, other, _ = random_sets(3, scenes=5)
    a, b = (matched(truth, boxes, scene_of) for boxes in (found, other))
    result = paired_bootstrap(a, b=b, resamples=60, seed=4)["NDS"]
    rng, values = np.random.default_rng([4]), []
    for draw in rng.integers(5, size=(60, 5)):
        weights = [int((draw == scene).sum()) for scene in range(5)]
        values.append(drawn(b, weights)[0] - drawn(a, weights)[0])
    assert result.low == pytest.approx(np.quantile(values, 0.025)) and result.mean == pytest.approx(np.mean(values))
    assert result.deviation == pytest.approx(np.std(values) * (60 / 59) ** 0.5)


def test_draws_together_are_draws_alone() -> None:
    """Ties, scenes left out and a draw of one scene alone: the place of a draw among others changes nothing."""
    truth, found, scene_of = random_sets(9, scenes=5)
    matches = matched(truth, found, scene_of)
    weights = [[1, 1, 1, 1, 1], [5, 0, 0, 0, 0], [0, 0, 0, 0, 5], [0, 3, 0, 2, 0], [2, 1, 0, 1, 1]]
    together = scores_of_draws(matches, weights=np.array(weights))
    np.testing.assert_array_equal(together, [drawn(matches, alone) for alone in weights])


def test_refuses_other_scenes() -> None:
    truth, found, scene_of = random_sets(2, scenes=3)
    first = matched(truth, found, scene_of)
    second = matched(truth, found, {token: "x" + scene for token, scene in scene_of.items()})
    with pytest.raises(ValueError, match="same scenes"):
        paired_bootstrap(first, b=second)
