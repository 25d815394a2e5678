"""Hours of a dry run: work in frames by hand, at the pace of the newest evaluation of the model; or no time at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import profiles
from pipelines.assembly.job import Job
from pipelines.bit_planning import losses
from pipelines.commands import (
    calibrate,
    compress,
    distill_vgd,
    evaluate,
    plan_bits,
    qat_progressive,
    sensitivity,
    train_float,
)
from pipelines.costs.hours import hours
from pipelines.costs.work import chain_work, distillation_work, qat_work
from pipelines.store.artifacts import Artifact, Store
from profiles import Profile

SMALL = ("data.train_scenes=4", "data.val_scenes=5", "calibration.samples=8", "device=cpu")
STEPS = ("qat.steps_per_stage=[1,2,3,4]", "qat.batch_size=8", "distillation.schedule.steps=6")
FLOAT_STEPS = (
    "float_training.steps=2",
    "float_training.batch_size=4",
    "float_training.accumulation=1",
    "float_training.single_frame_share=0",
)
UNKNOWN = "no time: nothing of this model was run here yet"


def load(*words: str, model: str = "nano") -> Profile:
    return profiles.load("w4a6", model=model, overrides=[*SMALL, *STEPS, *words])


def sealed(store: Store, profile: Profile, *, key: int, data: dict[str, Any] | None = None, **took: float) -> Artifact:
    name = profiles.fingerprint(key)
    return store.seal("evaluation", profile=profile, key=name, write=lambda _: None, seconds=took, data=data)


def test_work_by_hand() -> None:
    # a queue of two frames, batches of 8, 5 scenes of 8 frames; nano freezes the parts that a stage does not add
    assert chain_work(load(), scored=40, controls=False) == [40, 48, 58, 76, 94, 112, 6 * 8 * 5.5 + 40]
    assert chain_work(load(), scored=40, controls=True)[-2:] == [180 + 6 * 8 * 3.5 + 40, 6 * 8 * 3.5 + 40]
    assert chain_work(load("qat.evaluate_each_stage=false"), scored=40, controls=False)[2] == 180 + 40
    assert chain_work(load("qat.other_multiplier=1"), scored=0, controls=False)[2] == 8 * 3.5
    assert qat_work(load(), scored=40) == 8 + 180 + 6 * 40
    assert qat_work(load("qat.evaluate_each_stage=false"), scored=40) == 8 + 180
    assert distillation_work(load("data.queue_length=1"), taught=True) == 6 * 8 * 3.5


def test_processes_share_evaluations_out_among_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert chain_work(load(), scored=40, controls=False)[:3] == [20, 28, 38]


@pytest.mark.usefixtures("shapes_counted_once")
@pytest.mark.parametrize(
    ("command", "said"),
    [
        (compress, "time: about 6 min for all of it; "),  # 732 frames, 366 s
        (qat_progressive, "time: about 4 min for all of it; "),  # 428 frames, 214 s
        (distill_vgd, "time: about 2 min for these steps; "),  # 264 frames, 132 s
        (evaluate, "time: about 20 s for all of it; "),  # 40 frames
        (calibrate, "time: about 4 s for all of it; "),  # 8 frames
        (sensitivity, "time: about 2 min for all rows, less what they share; "),  # 8 + 6 x 40 frames
        (train_float, "time: about 14 s for all of it; "),  # 2 x 4 x 3.5 frames
    ],
)
def test_dry_runs_say_memory_and_hours_and_what_they_stand_on(tmp_path: Path, command: Any, said: str) -> None:
    job = Job(load(*FLOAT_STEPS, f"data.cache={tmp_path / 'cache'}"), Store(tmp_path / "runs"))
    *first, unknown = command.run(job, dry_run=True).messages
    assert unknown == UNKNOWN
    made = sealed(job.store, load(), key=1, frame=0.5)
    would = command.run(job, dry_run=True)
    assert would.messages[-1] == f"{said}{made.path.name} took 0.5 s a frame"
    assert any(line.startswith("memory of one process in float32, about: 0.") for line in [*would.would_do, *first])


def test_what_is_not_known_in_frames_has_no_time(tmp_path: Path) -> None:
    job = Job(load("bit_plan.size=0.125", "bit_plan.criterion=hessian"), Store(tmp_path))
    assert plan_bits.run(job, dry_run=True).messages[-1] == "no time: what measuring all choices takes was not measured"
    learned = calibrate.run(Job(load("calibration.method=gptq"), job.store), dry_run=True).messages[-1]
    assert learned == UNKNOWN
    sealed(job.store, load(), key=1, frame=0.5)
    learned = calibrate.run(Job(load("calibration.method=gptq"), job.store), dry_run=True).messages[-1]
    assert "about 4 s for the ranges, and longer for the rounding; " in learned


def test_choices_of_a_bit_plan_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "evaluations", lambda _: 100)
    profile = load("bit_plan.size=0.125", "bit_plan.candidates=[2,4,8]", "bit_plan.samples=3")
    assert losses.choosing_work(profile, scene_samples=32) == 8 + 100 * 3
    scored = load("bit_plan.bops=0.1", "bit_plan.candidates=[2,4]", "bit_plan.samples=3", "bit_plan.criterion=nds")
    assert losses.choosing_work(scored, scene_samples=32) == 2 * 8 + 8 + 100 * 35


def test_the_newest_of_the_same_model_that_torch_ran_and_timed_counts(tmp_path: Path) -> None:
    job = Job(load(), Store(tmp_path))
    sealed(job.store, load("model.head.queries=20"), key=1, frame=9.0)
    sealed(job.store, load(), key=2)
    sealed(job.store, load(), key=3, data={"runtime": "ort"}, frame=9.0)
    assert hours(job, frames=100) == UNKNOWN
    sealed(job.store, load(), key=4, frame=9.0)
    newest = sealed(job.store, load("quantization.weight_bits=8"), key=5, frame=0.25)
    assert hours(job, frames=100, what="it") == f"time: about 25 s for it; {newest.path.name} took 0.25 s a frame"
