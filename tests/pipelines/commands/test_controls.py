"""Controls: trained on the batches and from the weights of the claim, and beside it only where nothing else differs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file

import profiles
from pipelines.assembly.job import Job
from pipelines.assembly.samples import load_split
from pipelines.assembly.weights import imported
from pipelines.commands import train_float
from pipelines.lineage.chain import controls_of
from pipelines.lineage.stated import shipped_weights
from pipelines.store import processes
from pipelines.store.artifacts import Artifact, MissingArtifact, Store
from profiles import Profile, fingerprint
from profiles.sections.schedule import PARTS

Call = Callable[..., dict[str, Any]]
TRAIN = "a" * 64
STEPS = ("qat.steps_per_stage=[1,2,0,0]", "distillation.schedule.steps=3")
NO_STEPS = ("--set", "qat.steps_per_stage=0", "--set", "distillation.schedule.steps=0")


def no_files(folder: Path) -> None:
    save_file({}, folder / "model.safetensors")


class Sealed:
    """A store of artifacts without weights, which say how they were trained."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root)
        self.first = self.seal("float", profile=profiles.load("w4a6"), key="first")

    def seal(self, kind: str, *, profile: Profile, key: str, **fields: Any) -> Artifact:
        name = key if len(key) == 64 else fingerprint([kind, key])
        return self.store.seal(kind, profile=profile, key=name, write=no_files, **fields)

    def chain(self, *words: str) -> Artifact:
        """Two stages that train, one that does not, and distillation."""
        profile = profiles.load("w4a6", overrides=[*STEPS, *words])
        made = self.seal("calibration", profile=profile, key="", parents={"float": self.first.digest})
        for number, parts in enumerate((PARTS[:1], PARTS[:2], PARTS), start=1):
            data = {"train": TRAIN, "parts": list(parts), "stage": number, "stages": 3}
            steps = profile.qat.steps(parts[-1:])
            made = self.seal(
                "qat",
                profile=profile,
                key=str(number),
                parents={"start": made.digest},
                data=data,
                metrics={"steps": steps},
            )
        return self.trained_on("vgd", profile=profile, start=made)

    def trained_on(self, kind: str, *, profile: Profile, start: Artifact, train: str = TRAIN) -> Artifact:
        metrics = {"steps": profile.distillation.schedule.steps}
        parents = {"start": start.digest}
        key = fingerprint([train, profile.content()])
        return self.seal(kind, profile=profile, key=key, parents=parents, data={"train": train}, metrics=metrics)

    def float_control(self, *words: str, train: str = TRAIN, together: int = 1) -> Artifact:
        """What ``train-float --continue`` seals, under keys written out here."""
        profile = profiles.load("w4a6", overrides=[*STEPS, *words])
        made, qat, vgd = self.first, profile.qat, profile.distillation.schedule
        own = {"parts": ["backbone"], "other_multiplier": 0.0}
        stages = [(qat.of_stage([part]), qat.steps([part]), own | {"parts": [part]}) for part in PARTS[:2]]
        for schedule, steps, further in (*stages, (vgd, vgd.steps, {})):
            same = {name: value for name, value in schedule.content().items() if name in OPTIMISATION}
            other = {"steps": steps, "freeze_batchnorm": True, "start_from": made.digest}
            rest = {"auxiliary": False, "single_frame_share": 0.0}
            content = {
                "kind": "float",
                "model": profile.model.content() | {"weights": None},
                "training": same | other | rest | further,
                "queue": [profile.data.queue_length, profile.data.drop_one_frame],
                "data": train,
                "seed": profile.seed,
                **({"processes": together} if together > 1 else {}),
            }
            made = self.seal("float", profile=profile, key=fingerprint(content), parents={"start": made.digest})
        return made


OPTIMISATION = (
    *("batch_size", "accumulation", "learning_rate", "backbone_multiplier", "weight_decay", "warmup_steps"),
    *("warmup_ratio", "curve", "final_ratio", "clip_norm", "precision", "ema_decay", "grid_mask_probability"),
    *("photometric", "log_every"),
)
OTHER_SETTINGS = (
    "seed=5",
    "qat.learning_rate=0.01",
    "qat.batch_size=2",
    "qat.stage_multipliers=[0.05,0.1,0.1,1]",
    "qat.steps_per_stage=[1,3,0,0]",
    "qat.backbone_multiplier=0.5",
    "distillation.schedule.steps=6",
    "distillation.schedule.learning_rate=1e-4",
    "distillation.schedule.batch_size=2",
    "data.queue_length=3",
    "model.head.motion_weight=0.5",
)


@pytest.fixture
def sealed(tmp_path: Path) -> Sealed:
    return Sealed(tmp_path / "runs")


def test_controls_trained_as_the_claim_was_stand_beside_it(sealed: Sealed) -> None:
    claim = sealed.chain()
    assert controls_of(claim, store=sealed.store) == []
    by_float = sealed.float_control()
    stage = sealed.store.open(claim.manifest.parents["start"])
    other_teacher = profiles.load("w4a6", overrides=[*STEPS, "distillation.objectives=[cwd_bev]"])  # which it has not
    by_qat = sealed.trained_on("qat-longer", profile=other_teacher, start=stage)
    assert [one.digest for one in controls_of(claim, store=sealed.store)] == [by_float.digest, by_qat.digest]


@pytest.mark.parametrize("setting", OTHER_SETTINGS)
def test_a_float_control_with_other_settings_does_not(sealed: Sealed, setting: str) -> None:
    claim = sealed.chain()
    sealed.float_control(setting)
    assert controls_of(claim, store=sealed.store) == []
    own = sealed.float_control()
    sealed.float_control(setting)
    assert [one.digest for one in controls_of(claim, store=sealed.store)] == [own.digest]


@pytest.mark.parametrize("setting", [one for one in OTHER_SETTINGS if not one.startswith("qat.")])
def test_a_qat_control_with_other_settings_does_not(sealed: Sealed, setting: str) -> None:
    claim = sealed.chain()
    stage = sealed.store.open(claim.manifest.parents["start"])
    other = profiles.load("w4a6", overrides=[*STEPS, setting])
    sealed.trained_on("qat-longer", profile=other, start=stage)
    assert controls_of(claim, store=sealed.store) == []


def test_controls_of_other_samples_or_another_start_do_not(sealed: Sealed) -> None:
    claim = sealed.chain()
    stage = sealed.store.open(claim.manifest.parents["start"])
    profile = profiles.load("w4a6", overrides=STEPS)
    sealed.float_control(train="b" * 64)
    sealed.trained_on("qat-longer", profile=profile, start=stage, train="b" * 64)
    before = sealed.store.open(stage.manifest.parents["start"])
    sealed.trained_on("qat-longer", profile=profile, start=before)
    sealed.first = sealed.seal("float", profile=profile, key="another first")
    sealed.float_control()
    assert controls_of(claim, store=sealed.store) == []


def test_controls_of_fewer_processes_do_not(sealed: Sealed, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(processes, "in_key", lambda: {"processes": 2})
        claim = sealed.chain()
    sealed.float_control()
    assert controls_of(claim, store=sealed.store) == []
    own = sealed.float_control(together=2)
    assert [one.digest for one in controls_of(claim, store=sealed.store)] == [own.digest]


def test_what_was_not_trained_has_no_control(sealed: Sealed) -> None:
    sealed.float_control()
    calibration = sealed.seal(
        "calibration", profile=profiles.load("w4a6"), key="", parents={"float": sealed.first.digest}
    )
    assert controls_of(calibration, store=sealed.store) == []


def test_a_claim_with_a_schedule_of_other_times_is_read_and_has_no_control(
    sealed: Sealed, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Profile.content
    with monkeypatch.context() as patched:

        def with_lost_field(profile: Profile) -> dict[str, Any]:
            content = original(profile)
            return content | {"qat": content["qat"] | {"lost": 1}}

        patched.setattr(Profile, "content", with_lost_field)
        claim = sealed.chain()
    sealed.float_control()
    assert controls_of(claim, store=sealed.store) == []


# -- trained --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def usual_model(mite: str) -> str:
    return mite


@pytest.fixture(scope="module")
def settings(tiny_synthetic: Path) -> list[str]:
    return [
        f"data.source={tiny_synthetic}",
        "data.train_scenes=1",
        "data.val_scenes=1",
        "calibration.samples=1",
        "qat.steps_per_stage=[0,0,0,1]",
        "qat.batch_size=1",
        "distillation.schedule.steps=1",
        "distillation.schedule.batch_size=1",
        "distillation.auto_steps=1",
        "evaluation.bootstrap_resamples=2",
        "evaluation.max_boxes=30",
        "quantization.training_observer=null",  # as calibrated: quicker, and no matter here
        "quantization.training_rounding=nearest",
    ]


@pytest.fixture(scope="module")
def held(call: Call, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A store with a compression of one stage and its controls, and what that command said."""
    root = tmp_path_factory.mktemp("held")
    return root, call("compress", "--stages", "1", "--controls", at=root)


@pytest.mark.slow
def test_another_seed_and_rate_are_not_held_against_the_controls_of_the_first(
    call: Call, held: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    store = tmp_path / "runs"
    shutil.copytree(held[0], store)
    words = ("--set", "qat.learning_rate=0.01", "--seed", "5")
    other = call("compress", "--stages", "1", *words, at=store)
    assert list(other["metrics"]) == ["float", "PTQ", "QAT 1/1", "QAT+VGD"]
    described = call("report", "--set", "qat.stages=1", *words, at=store)
    assert list(described["metrics"]) == list(other["metrics"])
    first = call("compress", "--stages", "1", "--controls", at=store)
    assert first["metrics"] == held[1]["metrics"]
    assert list(first["metrics"])[-3:] == ["float longer", "QAT longer", "QAT+VGD"]


@pytest.mark.slow
def test_a_longer_control_is_not_shown_and_scores_of_other_scenes_are_not_compared(
    call: Call, held: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    store = tmp_path / "runs"
    shutil.copytree(held[0], store)
    stages = ("--set", "qat.stages=1")
    longer = call("distill-vgd", "--control", *stages, "--set", "distillation.schedule.steps=2", at=store)
    call("evaluate", longer["artifact"]["path"], at=store)
    own = held[1]["metrics"]["QAT longer"]["artifact"]
    call("evaluate", str(Store(store).open(own).path), "--set", "data.val_scenes=2", at=store)
    plain = call("compress", "--stages", "1", at=store)["metrics"]
    assert plain["QAT longer"]["artifact"] == own
    assert plain["QAT longer"]["NDS"] == held[1]["metrics"]["QAT longer"]["NDS"]


def test_without_steps_the_controls_are_left_out_in_a_sentence(call: Call, tmp_path: Path) -> None:
    words = ("--stages", "1", *NO_STEPS)
    plan = call("compress", *words, "--controls", "--dry-run", at=tmp_path)["would_do"]
    assert any("the float detector itself is the float control" in step for step in plan)
    assert not any(step.startswith("train float") for step in plan)
    made = call("compress", *words, "--controls", at=tmp_path)
    assert "no step is trained" in made["messages"][0]
    assert list(made["metrics"]) == ["float", "PTQ", "PTQ 1/1"]
    again = call("compress", *words, "--controls", at=tmp_path)
    assert again["messages"] == [made["messages"][0], "already compressed; --force does it again"]
    plain = call("compress", *words, at=tmp_path)
    assert plain["artifact"] == made["artifact"] and plain["metrics"] == made["metrics"]
    assert call("report", "--set", "qat.stages=1", *words[2:], at=tmp_path)["metrics"] == made["metrics"]
    assert not (tmp_path / "_report" / "curve.png").exists()
    refused = call("train-float", "--continue", *NO_STEPS, at=tmp_path, code=2)
    assert "nothing to train on for" in json.dumps(refused)


def _short(*words: str, model: str = "nano") -> Profile:
    settings = ["data.train_scenes=1", "qat.steps_per_stage=[0,0,0,1]", "qat.batch_size=1"]
    settings += ["distillation.schedule.steps=0", *words]
    return profiles.load("w4a6", model=model, overrides=settings, device="cpu")


def test_the_float_control_sees_the_samples_of_qat_and_no_further_seeds(tmp_path: Path, mite: str) -> None:
    profile = _short("data.key_frames=2", "data.more_seeds=[1]", f"data.cache={tmp_path}", model=mite)
    store = Store(tmp_path / "runs")
    made = train_float.run(Job(profile, store), further=True)
    control = made.artifact
    assert control is not None
    assert control.manifest.data["train"] == load_split(profile.data, name="train").digest
    assert (control.manifest.data["train_scenes"], control.manifest.data["train_samples"]) == (1, 2)
    plain = _short("data.key_frames=2", f"data.cache={tmp_path}", model=mite)
    again = train_float.run(Job(plain, store), further=True)
    assert again.artifact is not None and again.artifact.digest == control.digest
    whole = profile.model_copy(
        update={"float_training": profile.float_training.model_copy(update={"steps": 1, "batch_size": 1})}
    )
    from_scratch = train_float.run(Job(whole, store))
    assert from_scratch.artifact is not None and from_scratch.artifact.manifest.data["train_scenes"] == 2


def test_the_float_control_of_imported_weights_starts_from_them(tiny_synthetic: Path, tmp_path: Path) -> None:
    profile, store = _short(f"data.source={tiny_synthetic}", "model.weights=null"), Store(tmp_path / "runs")
    plan = train_float.run(Job(profile, store), further=True, dry_run=True).would_do
    assert plan == ["train nano (decoder) from the imported weights: 1 step of 1 sample"]
    with pytest.raises(MissingArtifact, match="the float weights of nano are not in"):
        train_float.run(Job(profile, store), further=True)
    shipped = shipped_weights("nano")
    assert shipped is not None
    first = imported(Job(profile, store), path=shipped.file("model.safetensors"))
    made = train_float.run(Job(profile, store), further=True)
    assert made.artifact is not None and made.artifact.manifest.parents == {"start": first.digest}
