"""Every command through the shell: arguments into a profile, one call of its pipeline, its result printed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import types
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import pipelines.commands
import profiles
from pipelines.assembly.job import Job
from pipelines.reporting.outcome import Outcome
from pipelines.store.artifacts import DamagedArtifact, MissingArtifact, Store
from profiles import Profile
from qdbev.reporting.tables.table import plain_table
from qdbev_cli.app import app
from qdbev_cli.console import as_document, as_text

ROOT = Path(__file__).parents[2]
RUN = CliRunner(env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"})
COMMANDS = [
    *("doctor", "train-float", "import-weights", "lint", "calibrate", "sensitivity", "qat-progressive", "distill-vgd"),
    *("evaluate", "compress", "report", "data", "export", "artifacts", "profiles"),
]
WORK = {
    "train_float": ["train-float"],
    "import_weights": ["import-weights", "w.pth"],
    "lint": ["lint"],
    "calibrate": ["calibrate"],
    "sensitivity": ["sensitivity"],
    "qat_progressive": ["qat-progressive"],
    "distill_vgd": ["distill-vgd"],
    "evaluate": ["evaluate"],
    "compress": ["compress"],
    "report": ["report"],
    "data": ["data", "synth"],
    "export": ["export", "packed"],
}
TABLE = plain_table("accuracy", title="Accuracy", headers=["detector", "NDS"], rows=[["float", 0.4]])
OUTCOME = Outcome(tables=[TABLE], metrics={"nds": 0.4}, messages=["done"])
NO_STORE, NO_FORCE = ("data",), ("data", "report", "lint")  # a data set is no artifact; the others make none

Calls = list[tuple[str, Profile, dict[str, Any]]]
"""Command, profile, and its keywords; of a job also its ``store``, ``force`` and ``progress``."""


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """All pipelines replaced by one that notes how it was called."""
    noted: Calls = []
    replace(monkeypatch, lambda name, profile, keywords: noted.append((name, profile, keywords)))
    monkeypatch.setattr(Store, "locate", lambda store, ref: store.root / str(ref))  # every artifact is there
    return noted


def replace(monkeypatch: pytest.MonkeyPatch, action: Callable[[str, Profile, dict[str, Any]], None]) -> None:
    for name in WORK:

        def run(wanted: Job | Profile, *, _name: str = name, **keywords: Any) -> Outcome:
            if isinstance(wanted, Job):
                said = {"store": wanted.store, "force": wanted.force, "progress": wanted.progress}
                action(_name, wanted.stated, keywords | said)
            else:
                action(_name, wanted, keywords)
            return OUTCOME

        module = types.ModuleType(f"pipelines.commands.{name}")
        module.run = module.synth = module.packed = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, f"pipelines.commands.{name}", module)
        monkeypatch.setattr(pipelines.commands, name, module, raising=False)


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*_: Any) -> None:
        raise error

    replace(monkeypatch, fail)


# -- help ----------------------------------------------------------------------------------------------------------


def test_help_lists_every_command_with_one_line() -> None:
    lines = RUN.invoke(app, ["--help"]).stdout.splitlines()
    listed = [found for line in lines if (found := re.match(r"^\W*([a-z-]+) {2,}([A-Z].{20,60}\.)\W*$", line))]
    assert [found[1] for found in listed] == COMMANDS


@pytest.mark.parametrize(
    "words", [[one] for one in COMMANDS[:11]] + [["data", "synth"], ["export", "packed"], ["artifacts", "show"]]
)
def test_every_command_explains_itself_with_an_example(words: list[str]) -> None:
    result = RUN.invoke(app, [*words, "--help"])
    assert result.exit_code == 0
    assert f"Example: qdbev {' '.join(words)}" in result.stdout


@pytest.mark.parametrize("words", WORK.values(), ids=WORK)
def test_every_command_that_works_takes_the_shared_options(words: list[str]) -> None:
    text = RUN.invoke(app, [*words, "--help"]).stdout
    for option in ("profile", "model", "recipe", "set", "seed", "device", "json", "dry-run"):
        assert f"--{option} " in text


def test_the_page_names_the_commands_without_a_shared_option() -> None:
    page = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    stated = re.findall(r"^\| `(--[a-z-]+)[^|]*\|([^|]*)\|[^|]*\|$", page, re.M)
    assert len(stated) == 13
    for option, without in stated:
        lacking = {name for name in COMMANDS if option not in options_of(name)}
        assert lacking == set(re.findall(r"`([a-z-]+)`", without)), option


@cache
def options_of(name: str) -> set[str]:
    """All options of a command, or of any command of a group."""
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    members = getattr(command, "commands", {name: command}).values()
    return {option for member in members for parameter in member.params for option in parameter.opts}


def test_importing_and_asking_for_help_loads_no_torch() -> None:
    code = (
        "import sys, profiles, pipelines.store.artifacts, pipelines.commands.artifacts, qdbev_cli.app\n"
        "from typer.testing import CliRunner\n"
        "assert CliRunner().invoke(qdbev_cli.app.app, ['--help']).exit_code == 0\n"
        "print(sorted({'torch', 'numpy', 'mmcv', 'mmdet3d', 'accelerate', 'safetensors'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_version() -> None:
    import qdbev

    result = RUN.invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"qdbev {qdbev.__version__}\n")


def test_python_m_runs_it() -> None:
    done = subprocess.run([sys.executable, "-m", "qdbev_cli", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith("qdbev ")


def test_a_misspelt_command_or_option_is_answered_with_the_right_one() -> None:
    result = RUN.invoke(app, ["calibrat"])
    assert result.exit_code == 2
    assert "did you mean calibrate?" in result.stderr
    result = RUN.invoke(app, ["calibrate", "--methd", "ptq"])
    assert result.exit_code == 2
    assert "--method" in result.stderr


def test_a_control_of_no_profile_is_that_of_w4a6(calls: Calls) -> None:
    assert RUN.invoke(app, ["train-float", "--continue"]).exit_code == 0
    assert calls[0][1].name == "w4a6"


# -- words into a profile and keywords -----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "words"), WORK.items(), ids=WORK)
def test_without_arguments_nano_on_synthetic_scenes_into_runs(calls: Calls, name: str, words: list[str]) -> None:
    result = RUN.invoke(app, words)
    assert result.exit_code == 0, result.stderr
    [(called, profile, keywords)] = calls
    assert called == name
    assert (profile.model.name, profile.data.source) == ("nano", "synthetic")
    assert profile == profiles.load("float" if name in ("train_float", "import_weights") else "w4a6")
    assert keywords["dry_run"] is False
    assert keywords.get("progress", True) is True
    assert name in NO_STORE or keywords["store"].root == Path("runs")
    assert name in NO_FORCE or keywords["force"] is False


@pytest.mark.parametrize(("name", "words"), WORK.items(), ids=WORK)
def test_shared_options_reach_profile_and_pipeline(calls: Calls, name: str, words: list[str], tmp_path: Path) -> None:
    options = ["--profile", "w8a8", "--model", "tiny", "--set", "qat.batch_size=3", "--set", "qat.stages=2"]
    options += ["--recipe", "hawq-v3"]
    options += ["--seed", "7", "--device", "cpu", "--dry-run", "--json"]
    options += ["--store", str(tmp_path)] * (name not in NO_STORE) + ["--force"] * (name not in NO_FORCE)
    result = RUN.invoke(app, [*words, *options])
    assert result.exit_code == 0, result.stderr
    [(_, profile, keywords)] = calls
    assert (profile.name, profile.model.name, profile.qat.batch_size) == ("w8a8-hawq-v3", "tiny", 3)
    assert (profile.qat.stages, profile.quantization.scale_rule) == (2, "hawq")
    assert (profile.seed, profile.device) == (7, "cpu")
    assert {"model=tiny", "qat.batch_size=3", "qat.stages=2", "seed=7", "device=cpu"} <= set(profile.overrides)
    assert keywords["dry_run"] is True
    assert keywords.get("progress", False) is False
    assert name in NO_STORE or keywords["store"].root == tmp_path
    assert name in NO_FORCE or keywords["force"] is True


@pytest.mark.parametrize(
    ("name", "options"), [*((name, ["--store", "x"]) for name in NO_STORE), *((name, ["--force"]) for name in NO_FORCE)]
)
def test_an_option_that_would_mean_nothing_is_refused(calls: Calls, name: str, options: list[str]) -> None:
    result = RUN.invoke(app, [*WORK[name], *options])
    assert (result.exit_code, calls) == (2, [])
    assert "has no option" in result.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["calibrate", "--method", "dfq"], {}),
        (["lint", "nano", "--profile", "w4a4"], {}),
        (["sensitivity"], {"level": "part"}),
        (["sensitivity", "--bits", "w4a4", "--level", "module"], {"level": "module"}),
        (["qat-progressive", "--stages", "1"], {}),
        (["compress"], {"controls": False, "own_bits": False}),
        (["compress", "--own-bits"], {"controls": False, "own_bits": True}),
        (["compress", "--stages", "2", "--controls"], {"controls": True, "own_bits": False}),
        (["distill-vgd"], {"control": False}),
        (["distill-vgd", "--control"], {"control": True}),
        (["train-float"], {"further": False}),
        (["train-float", "--continue", "--profile", "w4a4"], {"further": True}),
        (["import-weights", "w.pth"], {"file": Path("w.pth")}),
        (["evaluate"], {"artifact": None, "official": False, "runtime": None}),
        (
            ["evaluate", "qat:w4a6-nano", "--official", "--runtime", "ort"],
            {"artifact": "qat:w4a6-nano", "official": True, "runtime": "ort"},
        ),
        (["report"], {"format": "table", "out": None, "paper": False, "measure": False, "export": None}),
        (
            ["report", "--format", "html", "--out", "r.html"],
            {"format": "html", "out": Path("r.html"), "paper": False, "measure": False, "export": None},
        ),
        (
            ["report", "--out", "r.md"],
            {"format": "md", "out": Path("r.md"), "paper": False, "measure": False, "export": None},
        ),
        (
            ["report", "--format", "csv", "--out", "r.md"],
            {"format": "csv", "out": Path("r.md"), "paper": False, "measure": False, "export": None},
        ),
        (
            ["report", "--out", "results"],
            {"format": "table", "out": Path("results"), "paper": False, "measure": False, "export": None},
        ),
        (["report", "--paper"], {"format": "table", "out": None, "paper": True, "measure": False, "export": None}),
        (["report", "--measure"], {"format": "table", "out": None, "paper": False, "measure": True, "export": None}),
        (["data", "synth"], {"out": None}),
        (["data", "synth", "--out", "d"], {"out": Path("d")}),
        (["export", "packed"], {"artifact": None, "out": None, "check": None, "base_model": None}),
        (
            ["export", "packed", "qat:w4a6-nano", "--out", "d", "--base-model", "a/b"],
            {"artifact": "qat:w4a6-nano", "out": Path("d"), "check": None, "base_model": "a/b"},
        ),
    ],
    ids=" ".join,
)
def test_own_options_of_a_command(calls: Calls, words: list[str], expected: dict[str, Any]) -> None:
    result = RUN.invoke(app, words)
    assert result.exit_code == 0, result.stderr
    [(_, _, keywords)] = calls
    assert {
        name: value for name, value in keywords.items() if name not in ("store", "force", "dry_run", "progress")
    } == (expected)


def test_own_options_stand_in_the_profile_too(calls: Calls) -> None:
    RUN.invoke(app, ["calibrate", "--method", "dfq"])
    RUN.invoke(app, ["compress", "--stages", "2"])
    RUN.invoke(app, ["sensitivity", "--bits", "W8A4"])
    (_, dfq, _), (_, two, _), (_, bits, _) = calls
    assert dfq.calibration.method == "dfq"
    assert (two.qat.stages, two.overrides) == (2, ("qat.stages=2",))
    assert bits.quantization.label == "W8A4"


def test_own_bits_and_a_plan_are_not_asked_for_at_once(calls: Calls) -> None:
    result = RUN.invoke(app, ["compress", "--own-bits", "--plan", "mine"])
    assert (result.exit_code, calls) == (2, []) and "give one of them" in result.stderr


@pytest.mark.parametrize("name", ["bit-plan:w4a6-nano", "12345678", "1e12"])
def test_a_plan_is_a_name_also_where_it_looks_like_a_number(calls: Calls, name: str) -> None:
    assert RUN.invoke(app, ["compress", "--plan", name]).exit_code == 0
    assert calls[0][1].quantization.plan == name


def test_choosing_bits_stands_in_the_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[Profile] = []
    module = types.ModuleType("pipelines.commands.plan_bits")
    module.run = lambda job, **_: noted.append(job.stated) or OUTCOME  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pipelines.commands.plan_bits", module)
    monkeypatch.setattr(pipelines.commands, "plan_bits", module, raising=False)
    words = ["--budget", "size=0.13", "--budget", "bops=2e-2", "--candidates", "2,4", "--criterion", "hessian"]
    assert RUN.invoke(app, ["sensitivity", "--plan", *words]).exit_code == 0
    section = noted[0].bit_plan
    assert section.budgets == {"size": 0.13, "bops": 0.02}
    assert (section.candidates, section.criterion) == ((2, 4), "hessian")
    words = ["--budget", "size=1.5MiB", "--budget", "latency=0.6", "--criterion", "nds"]
    assert RUN.invoke(app, ["sensitivity", "--plan", *words]).exit_code == 0
    assert noted[1].bit_plan.budgets == {"bytes": 1572864, "latency": 0.6}
    assert RUN.invoke(app, ["sensitivity", "--plan", "--budget", "bytes=700000"]).exit_code == 0
    assert noted[2].bit_plan.budgets == {"bytes": 700000}


def test_scenes_are_shared_out_and_the_seed_is_the_scenes(calls: Calls) -> None:
    words = ["data", "synth", "--scenes", "10", "--seed", "4", "--size", "320x180", "--sweeps", "val"]
    result = RUN.invoke(app, words)
    assert result.exit_code == 0, result.stderr
    data = calls[0][1].data
    assert (data.train_scenes, data.val_scenes, data.seed) == (8, 2, 4)
    assert (data.image_size_px, data.sweeps) == ((320, 180), "val")
    RUN.invoke(app, ["data", "synth", "--train-scenes", "5", "--val-scenes", "3"])
    assert (calls[1][1].data.train_scenes, calls[1][1].data.val_scenes) == (5, 3)


# -- results and errors --------------------------------------------------------------------------------------------


def test_text_is_the_outcome(calls: Calls) -> None:
    assert RUN.invoke(app, ["compress"]).stdout == f"{as_text(OUTCOME)}\n"


def test_json_is_the_outcome(calls: Calls) -> None:
    assert RUN.invoke(app, ["compress", "--json"]).stdout == f"{as_document(OUTCOME)}\n"


@pytest.mark.parametrize("words", WORK.values(), ids=WORK)
def test_a_wrong_field_exits_2_and_names_it(calls: Calls, words: list[str]) -> None:
    result = RUN.invoke(app, [*words, "--set", "quantization.weight_bits=9"])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "quantization.weight_bits is 9; allowed: 2, 3, 4, 5, 6, 7, 8, 32" in result.stderr
    assert "Traceback" not in result.stderr
    assert calls == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["sensitivity", "--bits", "4x6"], "--bits is '4x6'; it must be wNaM"),
        (["sensitivity", "--bits", "w9a6"], "quantization.weight_bits is 9; allowed"),
        (["data", "synth", "--size", "large"], "--size is 'large'; it must be width x height"),
        (["compress", "--profile", "w4a5"], "there is no profile 'w4a5'; did you mean"),
        (["compress", "--device", "gpu"], "device is 'gpu'; must be auto, cpu, cuda or cuda:N"),
        (["compress", "--stages", "5"], "--stages"),
        (["report", "--format", "pdf"], "allowed: table, md, csv, json, html"),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, list) else "",
)
def test_usage_errors_exit_2(calls: Calls, words: list[str], sentence: str) -> None:
    result = RUN.invoke(app, words)
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
    assert calls == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("stages must be 1 to 4"), 2),
        (MissingArtifact("no float weights"), 3),
        (DamagedArtifact("weights.safetensors was changed"), 3),
        (FileNotFoundError(2, "No such file", "/data"), 3),
        (KeyboardInterrupt(), 130),
        (RuntimeError("boom"), 1),
    ],
    ids=lambda one: type(one).__name__,
)
def test_what_a_pipeline_raises_becomes_a_code(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    failing(monkeypatch, error)
    result = RUN.invoke(app, ["compress"])
    assert result.exit_code == code
    assert result.stdout == ""
    assert ("Traceback" in result.stderr) is (code == 1)
    assert result.stderr.splitlines()[-1].startswith("qdbev: ")


# -- artifacts, profiles and doctor, with nothing replaced ---------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "runs")
    store.seal(
        "qat",
        profile=profiles.load("w4a6"),
        key="ab" * 32,
        write=lambda folder: (folder / "ranges.json").write_text("[]"),
    )
    return store


def artifacts(store: Store, *words: str) -> Any:
    return RUN.invoke(app, ["artifacts", *words, "--store", str(store.root)])


def test_artifacts_list_show_verify(store: Store) -> None:
    digest = store.list()[0].digest
    assert digest[:12] in artifacts(store, "list").stdout
    assert digest in artifacts(store, "show", "qat:w4a6-nano").stdout
    assert json.loads(artifacts(store, "show", digest[:6], "--json").stdout)["manifest"]["digest"] == digest
    sound = artifacts(store, "verify")
    assert (sound.exit_code, sound.stdout.splitlines()[-1]) == (0, "1 of 1 artifact is sound")


def test_a_damaged_artifact_exits_3_by_name(store: Store) -> None:
    folder = store.folders()[0]
    (folder / "ranges.json").write_text("{}")
    for words in (["verify"], ["verify", folder.name], ["show", folder.name]):
        result = artifacts(store, *words)
        assert result.exit_code == 3
        assert f"artifact {folder.name} is refused" in result.stderr
        assert "ranges.json was changed" in result.stderr
        assert "Traceback" not in result.stderr


def test_a_missing_artifact_exits_3(store: Store) -> None:
    result = artifacts(store, "show", "qat:w8a8-nano")
    assert result.exit_code == 3
    assert "there is no artifact 'qat:w8a8-nano'" in result.stderr


def test_profiles_list_names_all() -> None:
    result = RUN.invoke(app, ["profiles", "list", "--json"])
    listed = json.loads(result.stdout)
    assert listed["profiles"] == ["float", "w4a4", "w4a6", "w6a6", "w8a8"]
    official = ["base", "bevdepth", "bevdet", "bevdet4d", "detr3d", "detr3d-r50", "petr", "small", "tiny"]
    own = ["nano", "nano-bevdepth", "nano-bevdet4d", "nano-detr3d", "nano-petr"]
    assert sorted(listed["models"]) == sorted([*own, *official])
    assert listed["recipes"] == list(profiles.builtin_recipes())


def test_profiles_show_prints_yaml_that_loads_back(tmp_path: Path) -> None:
    result = RUN.invoke(app, ["profiles", "show", "w4a4", "--set", "qat.stages=1", "--model", "tiny"])
    path = tmp_path / "shown.yaml"
    path.write_text(result.stdout)
    shown = profiles.load(path)
    assert (shown.name, shown.model.name, shown.qat.stages, shown.quantization.label) == ("w4a4", "tiny", 1, "W4A4")


def test_profiles_check(tmp_path: Path) -> None:
    assert RUN.invoke(app, ["profiles", "check"]).stdout.splitlines()[-1] == "5 profiles are right"
    path = tmp_path / "mine.yaml"
    path.write_text("qat: {stage: 3}\n")
    result = RUN.invoke(app, ["profiles", "check", str(path)])
    assert result.exit_code == 2
    assert "profile mine: qat.stage is not a field of a profile; did you mean qat.stages?" in result.stderr


@pytest.mark.parametrize(("ok", "code"), [(True, 0), (False, 3)])
def test_doctor_prints_its_checks_and_exits_3_if_something_is_missing(
    monkeypatch: pytest.MonkeyPatch, ok: bool, code: int
) -> None:
    check = {"name": "mmcv ops", "ok": ok, "found": "2.1.0", "do": "" if ok else "build it again"}
    table = plain_table("doctor", title="", headers=["check", "do"], rows=[[check["name"], check["do"]]])
    module = types.ModuleType("pipelines.commands.doctor")
    module.run = lambda: Outcome(tables=[table], details={"checks": [check]}, ok=ok)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pipelines.commands.doctor", module)
    monkeypatch.setattr(pipelines.commands, "doctor", module, raising=False)
    result = RUN.invoke(app, ["doctor"])
    assert result.exit_code == code
    assert ("build it again" in result.stdout) is not ok
    assert json.loads(RUN.invoke(app, ["doctor", "--json"]).stdout)["checks"] == [check]
