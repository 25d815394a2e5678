"""What a whole ``compress`` asks on its way is asked once: the bit plan, each split, the device."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import pytest

import profiles
from pipelines.assembly import detector, job, samples
from pipelines.assembly.job import Job
from pipelines.commands import compress
from pipelines.lineage.kinds import BIT_PLAN, BITS
from pipelines.store.artifacts import Artifact, Store
from profiles import Profile

QUICK = [
    "device=cpu",
    "data.train_scenes=2",
    "data.val_scenes=1",
    "calibration.samples=1",
    "quantization.training_observer=null",
    "quantization.training_rounding=nearest",
    "qat.stages=1",
    "qat.steps_per_stage=[1,0,0,0]",
    "qat.batch_size=1",
    "distillation.schedule.steps=1",
    "distillation.schedule.batch_size=1",
    "distillation.auto_steps=1",
    "evaluation.bootstrap_resamples=2",
    "evaluation.max_boxes=10",
]


def _sealed_plan(profile: Profile, *, store: Store) -> Artifact:
    """The bits of the profile, but 8 for the first layer."""
    from pipelines.assembly.quantized import detector_plan

    plan = detector_plan(detector.build_detector(profile.model), section=profile.quantization)
    layers = [{"path": site.path, "weight_bits": 4, "activation_bits": 6} for site in plan.quantized]
    layers[0]["weight_bits"] = 8

    def write(folder: Path) -> None:
        (folder / BITS).write_text(json.dumps({"layers": layers}))

    return store.seal(BIT_PLAN, profile=profile, key="ab" * 32, write=write)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[Hashable]:
    """How often each question was answered anew."""
    count: Counter[Hashable] = Counter()

    def counted(owner: Any, name: str, question: Callable[..., Hashable]) -> None:
        answer = getattr(owner, name)

        def ask(*args: Any, **options: Any) -> Any:
            count[question(*args, **options)] += 1
            return answer(*args, **options)

        monkeypatch.setattr(owner, name, ask)

    counted(job, "open_plan", lambda *args, **options: "bit plan")
    counted(samples, "load_split", lambda data, *, name, **options: name)
    counted(detector, "device_of", lambda *args: "device")
    return count


def test_a_compression_asks_nothing_twice(
    tiny_synthetic: Path, tmp_path: Path, asked: Counter[Hashable], mite: str
) -> None:
    words, store = [f"data.source={tiny_synthetic}", *QUICK], Store(tmp_path)
    plan = _sealed_plan(profiles.load("w4a6", model=mite, overrides=words), store=store)
    profile = profiles.load("w4a6", model=mite, overrides=[*words, f"quantization.plan={plan.path.name}"])
    outcome = compress.run(Job(profile, store), controls=True)
    assert asked == {"bit plan": 1, "train": 1, "val": 1, "device": 1}
    assert list(outcome.metrics) == ["float", "PTQ", "QAT 1/1", "float longer", "QAT longer", "QAT+VGD"]
    (calibration,) = [artifact for artifact in store.list() if artifact.manifest.kind == "calibration"]
    section: Any = calibration.manifest.profile["quantization"]
    assert section["plan"] == plan.digest
