"""The doctor: what it finds here is what is here, and every fault it can meet is named with its remedy."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from packaging.requirements import Requirement

from pipelines.commands import doctor
from pipelines.reporting.outcome import Outcome
from qdbev_cli.console import as_document


def named(answer: Outcome, name: str) -> doctor.Check:
    checks: list[doctor.Check] = answer.details["checks"]
    return next(check for check in checks if check["name"] == name)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Versions that are pretended to be installed, by package; the others are as they are."""
    pretended: dict[str, str] = {}
    real = importlib.metadata.version

    def version(package: str) -> str:
        found = pretended.get(package) or real(package)
        if found == "absent":
            raise importlib.metadata.PackageNotFoundError(package)
        return found

    monkeypatch.setattr(importlib.metadata, "version", version)
    return pretended


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> dict[str, Exception]:
    """Modules whose import is pretended to raise."""
    raising: dict[str, Exception] = {}
    real = importlib.import_module

    def import_module(name: str, package: str | None = None) -> ModuleType:
        if name in raising:
            raise raising[name]
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", import_module)
    return raising


def test_here_the_library_stack_is_sound() -> None:
    answer = doctor.run()
    stack = [
        "qdbev",
        "python",
        "torch",
        "mmcv operators",
        "mmengine",
        "mmdet",
        "mmdet3d",
        "nuscenes-devkit",
        "packages",
    ]
    assert {name: named(answer, name)["do"] for name in stack} == dict.fromkeys(stack, "")
    assert named(answer, "mmdet")["found"] == importlib.metadata.version("mmdet") == "3.3.0"
    assert named(answer, "python")["found"].startswith(sys.version.split()[0])


def test_the_answer_is_the_common_one_and_goes_into_json() -> None:
    answer = doctor.run()
    [table], checks = answer.tables, answer.details["checks"]
    assert [row["what"] for row in table.rows] == [check["name"] for check in checks]
    assert [row["state"] == "ok" for row in table.rows] == [check["ok"] for check in checks]
    assert answer.ok == all(check["ok"] for check in checks)
    document = json.loads(as_document(answer))
    assert (document["checks"], document["ok"], document["exit_code"]) == (checks, answer.ok, 0 if answer.ok else 3)


@pytest.mark.parametrize(
    ("package", "version", "ok"),
    [
        ("torch", "2.6.0", True),
        ("torch", "2.13.1+cu130", True),
        ("torch", "2.5.1", False),
        ("torch", "2.14.0", False),
        ("mmcv", "2.1.0", True),
        ("mmcv", "2.2.0", False),
        ("numpy", "2.0.0", False),
        ("nuscenes-devkit", "1.1.11", False),
        ("mmdet3d", "absent", False),
    ],
)
def test_a_version_outside_the_range_is_refused(
    installed: dict[str, str], package: str, version: str, ok: bool
) -> None:
    installed[package] = version
    answer = doctor.version_check(package)
    assert answer[0] is ok
    assert answer[1] == ("not installed" if version == "absent" else version)
    assert ("make setup" in answer[2]) is not ok


def test_wanted_versions_are_the_project_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: ["torch<2.14,>=2.6", 'pytest>=8; extra == "dev"'])
    assert doctor.wanted("torch") == Requirement("torch>=2.6,<2.14")
    assert doctor.wanted("pytest") is None  # a tool of the developers, no part of the installation


def test_one_package_out_of_range_is_named_among_the_others(installed: dict[str, str]) -> None:
    installed["typer"] = "0.31.0"
    answer = doctor.run()
    assert named(answer, "packages")["found"] == "typer 0.31.0"
    assert not answer.ok
    assert re.fullmatch(r"1 of \d+ checks asks for something to be done", answer.messages[0])


def test_mmcv_without_operators(broken: dict[str, Exception]) -> None:
    broken["mmcv._ext"] = ModuleNotFoundError("No module named 'mmcv._ext'")
    check = named(doctor.run(), "mmcv operators")
    assert (check["ok"], check["found"]) == (
        False,
        "2.1.0 without its compiled operators: No module named 'mmcv._ext'",
    )
    assert "make setup" in check["do"]


def test_a_package_that_breaks_is_one_line_and_not_the_end(broken: dict[str, Exception]) -> None:
    broken["mmdet3d.structures"] = RuntimeError("no such operator\nand forty lines of it")
    answer = doctor.run()
    assert named(answer, "mmdet3d")["found"] == "RuntimeError: no such operator"
    assert named(answer, "mmdet")["ok"]


@pytest.mark.parametrize("there", [False, True])
def test_torchvision_is_not_needed_but_a_broken_one_is_told(
    monkeypatch: pytest.MonkeyPatch, broken: dict[str, Exception], there: bool
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, package=None: (object() if there else None) if name == "torchvision" else real(name, package),
    )
    broken["torchvision"] = RuntimeError("operator torchvision::nms does not exist")
    check = named(doctor.run(), "torchvision")
    assert check["ok"] is not there
    assert check["do"] == ("remove it: `pip uninstall torchvision`" if there else "")


@pytest.mark.parametrize(
    ("torch_cuda", "usable", "gpu_there", "ok", "words"),
    [
        (None, False, False, True, "no GPU"),
        (None, False, True, False, "torch is a CPU build"),
        ("13.0", False, True, False, "cannot use it"),
        ("13.0", False, False, True, "no GPU"),
        ("13.0", True, True, True, "CUDA 13.0: Some GPU"),
    ],
)
def test_gpu_and_torch_fit_each_other(
    monkeypatch: pytest.MonkeyPatch, torch_cuda: str | None, usable: bool, gpu_there: bool, ok: bool, words: str
) -> None:
    torch = SimpleNamespace(
        version=SimpleNamespace(cuda=torch_cuda),
        cuda=SimpleNamespace(
            is_available=lambda: usable, device_count=lambda: 1, get_device_name=lambda _index: "Some GPU"
        ),
    )
    monkeypatch.setattr(importlib, "import_module", lambda name: torch)
    monkeypatch.setattr(doctor, "_driver_sees_gpu", lambda: gpu_there)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    answer = doctor._cuda()
    assert answer[0] is ok
    assert words in answer[1]
    assert (answer[2] == "") is ok


@pytest.mark.parametrize("bits", [0, 7, 8])
def test_a_cpu_that_multiplies_bytes_is_told(monkeypatch: pytest.MonkeyPatch, bits: int) -> None:
    monkeypatch.setattr("qdbev.ops.integer_weight_bits", lambda: bits)
    ok, found, _ = doctor._torch()
    assert ok and found.endswith(f"that multiply bytes, weights of up to {bits} bits" if bits else "cores")


def test_a_gpu_without_triton_is_told_what_is_quicker(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = SimpleNamespace(is_available=lambda: True, device_count=lambda: 1, get_device_name=lambda _index: "Some GPU")
    torch = SimpleNamespace(version=SimpleNamespace(cuda="13.0"), cuda=cuda)
    monkeypatch.setattr(importlib, "import_module", lambda name: torch)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    ok, found, do = doctor._cuda()
    assert ok
    assert "without Triton" in found
    assert "pip install triton" in do


def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1.9e9))
    check = named(doctor.run(), "disk")
    assert (check["ok"], check["found"]) == (False, "1.9 GB free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2.1e9))
    assert named(doctor.run(), "disk")["ok"]


def test_no_compiler_matters_only_while_mmcv_lacks_operators(
    monkeypatch: pytest.MonkeyPatch, broken: dict[str, Exception]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert named(doctor.run(), "compiler")["ok"]
    broken["mmcv._ext"] = ImportError("undefined symbol")
    check = named(doctor.run(), "compiler")
    assert not check["ok"]
    assert "g++" in check["do"]


def test_an_unsupported_python_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    check = named(doctor.run(), "python")
    assert not check["ok"]
    assert "3.11 or 3.12" in check["do"]


def test_missing_scenes_are_no_fault_and_present_ones_are_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("QDBEV_CACHE", str(tmp_path / "not" / "yet"))
    check = named(doctor.run(), "data")
    assert check["ok"]
    assert "qdbev data synth" in check["do"]

    from pipelines.assembly.samples import synthetic_root
    from profiles.sections.data import DataProfile

    tables = synthetic_root(DataProfile()) / DataProfile().version
    tables.mkdir(parents=True)
    (tables / "scene.json").write_text("[]")
    assert named(doctor.run(), "data")["do"] == ""


def test_shipped_weights_are_verified_byte_by_byte(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import qdbev

    shipped = Path(qdbev.__file__).parent / "zoo"
    if not any(shipped.glob("float-*nano*/manifest.json")):
        pytest.skip("nano's weights are not in this copy")
    assert named(doctor.run(), "weights")["ok"]
    shutil.copytree(shipped, tmp_path / "zoo")
    tensors = next((tmp_path / "zoo").glob("float-*nano*/*.safetensors"))
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)
    monkeypatch.setattr(qdbev, "__file__", str(tmp_path / "__init__.py"))
    check = named(doctor.run(), "weights")
    assert not check["ok"]
    assert tensors.name in check["found"]


def test_absent_weights_say_how_to_train_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import qdbev

    monkeypatch.setattr(qdbev, "__file__", str(tmp_path / "__init__.py"))
    check = named(doctor.run(), "weights")
    assert (check["ok"], check["do"]) == (False, "train them: `qdbev train-float --model nano`")


def test_without_a_clone_the_advice_is_pip(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, installed: dict[str, str]
) -> None:
    assert doctor.mend("numpy<2").startswith("run `make setup` in the clone ")
    monkeypatch.setattr(doctor, "CLONE", tmp_path)
    installed["numpy"] = "2.0.0"
    assert doctor.version_check("numpy")[2].endswith('is needed: run `pip install "numpy<2,>=1.26"`')
    assert doctor.mend("mmcv==2.1.0").endswith(f"`{doctor.MMCV}`")
    assert doctor.mend() == "run `pip install --upgrade qdbev`"
