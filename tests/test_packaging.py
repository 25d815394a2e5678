"""The distribution: the four packages are ours, versions agree, pins and ranges fit, nothing foreign is in the tree."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("qdbev", "qdbev_cli", "pipelines", "profiles")
# The set of versions that was exercised together (2026-11). mmcv: mmdet asserts < 2.2; torch: 2.14 needs C++20, mmcv
# builds with C++17; setuptools: pkg_resources is gone since 82; numpy: nuscenes-devkit asks for < 2.
WORKING_SET = {
    "torch": "2.13.0",
    "mmengine": "0.10.7",
    "mmcv": "2.1.0",
    "mmdet": "3.3.0",
    "mmdet3d": "1.4.0",
    "nuscenes-devkit": "1.2.0",
    "numpy": "1.26.4",
    "opencv-python-headless": "4.11.0.86",
    "shapely": "2.0.7",
    "setuptools": "80.10.2",
}
# Left out on purpose: a second OpenCV, 900 MB that nothing uses, and a build tied to CUDA that breaks CPU training.
UNWANTED = {"opencv-python", "open3d", "torchvision", "black", "flake8"}
PICKLE = (".pkl", ".pickle", ".pth", ".pt", ".joblib", ".ckpt", ".bin")


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def pins() -> dict[str, str]:
    lines = [line for file in (ROOT / "requirements").glob("*.txt") for line in file.read_text().splitlines()]
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert len({canonicalize_name(name) for name, _ in pairs}) == len(pairs), "a package is pinned twice"
    return {canonicalize_name(name): version for name, version in pairs}


def shipped_files() -> list[Path]:
    """What git knows or would take; outside a clone, the project's own folders."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).is_file()]
    folders = (*PACKAGES, "tests", "scripts", "docs", "requirements")
    return [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", PACKAGES)
def test_the_package_imported_is_ours(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__file__ is not None
    assert Path(module.__file__).resolve() == ROOT / name / "__init__.py"


def test_importing_the_library_and_the_profiles_loads_no_torch() -> None:
    code = "import sys, qdbev, pipelines, profiles; print(sorted({'torch', 'numpy', 'mmcv'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_versions_agree() -> None:
    import qdbev

    assert qdbev.__version__ == project()["version"] == importlib.metadata.version("qdbev")
    assert f"## {qdbev.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_pins_are_the_working_set() -> None:
    assert {name: pins().get(name) for name in WORKING_SET} == WORKING_SET
    assert not UNWANTED & set(pins())


def test_every_pin_lies_in_its_range_and_every_dependency_is_pinned() -> None:
    wanted = [Requirement(line) for line in project()["dependencies"]]
    wanted += [Requirement(line) for line in project()["optional-dependencies"]["dev"]]
    pinned = pins()
    outside = [str(one) for one in wanted if not one.specifier.contains(pinned.get(canonicalize_name(one.name), "0"))]
    assert outside == []


def test_the_pinned_list_is_complete() -> None:
    """Whatever an installed pinned package asks for is pinned too, but for what is left out on purpose."""
    pinned = pins()
    # Only asked for by accelerate's parts for the hub and for memory statistics.
    left_out = UNWANTED | {"huggingface-hub", "psutil"}
    missing = set()
    for name in pinned:
        for line in importlib.metadata.requires(name) or []:
            one = Requirement(line)
            needed = one.marker is None or one.marker.evaluate({"extra": ""})
            if needed and canonicalize_name(one.name) not in left_out | set(pinned) and not _cuda_part(one.name):
                missing.add(f"{name} -> {one.name}")
    assert missing == set()


def _cuda_part(name: str) -> bool:
    """Torch's CUDA build brings its own libraries; set-up lets torch resolve them."""
    return name == "triton" or name.startswith(("nvidia-", "cuda-"))


def test_the_environment_holds_the_pins() -> None:
    """In the environment made by set-up; a user's own torch may differ within its range."""
    if not Path(sys.prefix, "setup.stamp").is_file():
        pytest.skip("this environment was not made by `make setup`")
    installed = {name: importlib.metadata.version(name) for name in pins()}
    installed["torch"] = pins()["torch"]
    assert installed == pins()


def test_a_wheel_ships_every_file_of_the_packages(tmp_path: Path) -> None:
    from setuptools import build_meta

    here = Path.cwd()
    copy = tmp_path / "project"
    for path in shipped_files():
        relative = path.relative_to(ROOT)
        if relative.parts[0] in PACKAGES or len(relative.parts) == 1:
            (copy / relative).parent.mkdir(parents=True, exist_ok=True)
            (copy / relative).write_bytes(path.read_bytes())
    os.chdir(copy)
    try:
        wheel = build_meta.build_wheel(str(tmp_path))
    finally:
        os.chdir(here)
    names = set(zipfile.ZipFile(tmp_path / wheel).namelist())
    wanted = {path.relative_to(ROOT).as_posix() for path in shipped_files()}
    wanted = {name for name in wanted if name.split("/")[0] in PACKAGES}
    assert {"profiles/builtin/w4a6.yaml", "qdbev/py.typed"} <= wanted
    assert wanted - names == set()
    assert {name.split("/")[0] for name in names} == {*PACKAGES, f"qdbev-{project()['version']}.dist-info"}


def test_no_pickle_lies_in_the_tree() -> None:
    assert [str(path.relative_to(ROOT)) for path in shipped_files() if path.suffix in PICKLE] == []


def test_no_file_names_somebodys_machine() -> None:
    """No path of a home or of a workplace, and no host of a package registry, in any text of the project."""
    places = re.compile(
        "|".join(
            (r"/home/\w", r"/roo" r"t/", r"/Use" r"rs/\w", r"/wor" r"k/", r"pypi\.or" r"g", r"download\.pytor" r"ch")
        )
    )
    found = []
    for path in shipped_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {match.group()}" for match in places.finditer(text)]
    assert found == []


def test_the_licence_is_apache() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.split()[:3] == ["Apache", "License", "Version"]
    assert project()["license"] == "Apache-2.0"
