"""The teacher kept on disk: what it gave, once per sample, whatever batch, damage and run; and where it is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import profiles
from pipelines.assembly.detector import Detector
from pipelines.assembly.job import Job
from pipelines.assembly.samples import load_split, training_dataset
from pipelines.assembly.weights import float_detector
from pipelines.store.artifacts import Store
from pipelines.store.integrity import UnusableInput
from pipelines.training.run import NumberedBatches
from pipelines.training.teacher import (
    KeptTeacher,
    LiveTeacher,
    Teacher,
    keeps,
    refuse_unkeepable,
    sample_bytes,
    teacher_of,
)
from profiles import Profile
from qdbev.detectors.features import Features

Load = Callable[..., Profile]
OUTPUTS = "distillation.objectives=[cwd_bev,output_box]"


@pytest.fixture
def load(tiny_synthetic: Path, tmp_path: Path) -> Load:
    def loaded(*words: str) -> Profile:
        data = [f"data.source={tiny_synthetic}", f"data.cache={tmp_path}", "data.train_scenes=2"]
        return profiles.load("w4a6", overrides=[*data, *words], device="cpu")

    return loaded


@pytest.fixture(scope="module")
def detector() -> Detector:
    return float_detector(Job(profiles.load("w4a6"), Store(Path("nowhere"))))[0]


def batch_of(profile: Profile, size: int, number: int = 0) -> tuple[dict[str, torch.Tensor], list[Any]]:
    dataset = training_dataset(
        load_split(profile.data, name="train"),
        model=profile.model,
        data=profile.data,
        schedule=profile.distillation.schedule,
    )
    batch = next(NumberedBatches(dataset, batch_size=size, seed=0, workers=0)(number, stride=1))
    return batch["inputs"], batch["data_samples"]


def teacher(profile: Profile, detector: Detector, digest: str = "a") -> Teacher:
    split = load_split(profile.data, name="train")
    return teacher_of(profile, detector=detector, digest=digest, split=split, device=torch.device("cpu"))[0]


def files(tmp_path: Path) -> list[Path]:
    return sorted(tmp_path.glob("teacher/*/*.safetensors"))


def numbers(features: Features) -> list[torch.Tensor]:
    others = (features.bev_BQC, features.logits_LBKC, features.code_LBKD)
    return [*(features.image or []), *(one for one in others if one is not None)]


@pytest.mark.parametrize("words", [(), (OUTPUTS,)], ids=["features", "outputs"])
def test_kept_is_what_the_live_teacher_gives(load: Load, detector: Detector, words: tuple[str, ...]) -> None:
    live, kept = (teacher(load(f"distillation.cache_teacher={one}", *words), detector) for one in ("never", "always"))
    inputs, samples = batch_of(load(), 3)
    expected, first, second = live(inputs, samples), kept(inputs, samples), kept(inputs, samples)
    assert (first.image is None) == bool(words)
    fields = ["bev_BQC", "logits_LBKC", "code_LBKD"] if words else ["bev_BQC"]
    for field in fields:
        torch.testing.assert_close(getattr(first, field), getattr(expected, field), rtol=0, atol=1e-4)
    assert first.logits_LBKC is None or first.logits_LBKC.shape[:2] == (3, 3)  # layers, samples
    for one, other in zip(numbers(first), numbers(second), strict=True):
        assert torch.equal(one, other)
    if not words:
        for one, other in zip(first.image or [], expected.image or [], strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_a_second_visit_does_not_run_the_teacher_and_no_batch_changes_a_bit(
    load: Load, detector: Detector, tmp_path: Path
) -> None:
    profile, runs = load("distillation.cache_teacher=auto"), list[int]()
    hook = detector.img_neck.register_forward_hook(lambda *_: runs.append(1))  # type: ignore[union-attr]
    try:
        whole = teacher(profile, detector)(*batch_of(profile, 4))
        seen, size = len(runs), len(files(tmp_path))
        alone = [teacher(profile, detector)(*batch_of(profile, 1, number)) for number in range(4)]
        assert (len(runs), size) == (seen, 4) and seen >= 4
        teacher(profile, detector, digest="b")(*batch_of(profile, 1))
        assert len(runs) > seen  # another teacher has files of its own
    finally:
        hook.remove()
    for place, single in enumerate(alone):
        for one, other in zip(numbers(whole), numbers(single), strict=True):
            assert torch.equal(one[place], other[0])


def test_a_damaged_file_is_computed_again(load: Load, detector: Detector, tmp_path: Path) -> None:
    profile = load("distillation.cache_teacher=always")
    kept, batch = teacher(profile, detector), batch_of(profile, 2)
    before, whole = kept(*batch), [path.read_bytes() for path in files(tmp_path)]
    for damage in (lambda raw: raw[:-9], lambda raw: raw[:-9] + bytes([raw[-9] ^ 4]) + raw[-8:], lambda _: b""):
        files(tmp_path)[0].write_bytes(damage(whole[0]))
        for one, other in zip(numbers(before), numbers(kept(*batch)), strict=True):
            assert torch.equal(one, other)
        assert [path.read_bytes() for path in files(tmp_path)] == whole


def test_the_size_said_before_is_the_size_of_the_tensors(load: Load, detector: Detector, tmp_path: Path) -> None:
    for words in ((), (OUTPUTS,), ("distillation.combine=image_only",)):
        profile = load("distillation.cache_teacher=always", *words)
        features = teacher(profile, detector)(*batch_of(profile, 1))
        assert sample_bytes(profile) == sum(one.numel() * 4 for one in numbers(features))
    assert all(0 < path.stat().st_size < 1_100_000 for path in files(tmp_path))
    kept, sentence = keeps(load("distillation.cache_teacher=auto", "distillation.schedule.steps=1"), samples=30)
    assert kept and sentence.startswith(
        f"teacher features of 8 samples are kept in {tmp_path}/teacher, about 0.0073 GB"
    )
    assert keeps(load(), samples=30) == (False, "")


@pytest.mark.parametrize(
    "word",
    [
        "distillation.schedule.photometric=true",
        "distillation.schedule.grid_mask_probability=0.7",
        "data.drop_one_frame=true",
    ],
)
def test_augmentation_keeps_the_teacher_live(load: Load, detector: Detector, tmp_path: Path, word: str) -> None:
    profile, field = load("distillation.cache_teacher=auto", word), word.partition("=")[0]
    chosen = teacher(profile, detector)
    assert isinstance(chosen, LiveTeacher)
    chosen(*batch_of(profile, 1))
    assert files(tmp_path) == []
    assert f"because {field} is " in keeps(profile, samples=8)[1]
    with pytest.raises(ValueError, match=f"cache_teacher is always, but {field} is .* set it to auto"):
        refuse_unkeepable(load("distillation.cache_teacher=always", word))


def test_a_queue_of_one_frame_has_nothing_to_drop(load: Load, detector: Detector) -> None:
    words = ("distillation.cache_teacher=always", "data.drop_one_frame=true", "data.queue_length=1")
    assert isinstance(teacher(load(*words), detector), KeptTeacher)


def test_what_would_be_too_large_is_not_kept(load: Load, detector: Detector) -> None:
    limit = "distillation.cache_limit_gb=0.005"
    assert isinstance(teacher(load("distillation.cache_teacher=auto", limit), detector), LiveTeacher)
    with pytest.raises(ValueError, match=r"features of 8 samples would take about 0.0073\d* GB .* is 0.005; raise"):
        teacher(load("distillation.cache_teacher=always", limit), detector)


def test_a_folder_that_cannot_be_written_is_a_sentence(load: Load, detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "teacher").write_text("in the way")
    profile = load("distillation.cache_teacher=always")
    with pytest.raises(UnusableInput, match=r"teacher features cannot be written to .*data\.cache"):
        teacher(profile, detector)(*batch_of(profile, 1))
