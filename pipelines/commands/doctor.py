"""``qdbev doctor``: what this machine and this installation lack, and what to do about each.

Every check stands alone and imports what it asks about itself, so that one broken package is one line of the answer and
not the end of it. The wanted versions are read from the installed project's own metadata.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

from packaging.requirements import Requirement

from pipelines.reporting.outcome import Outcome
from qdbev.reporting.tables.table import plain_table

FREE_DISK_GB = 2.0
CLONE = Path(__file__).resolve().parents[2]
"""What qdbev lies in: a clone with its scripts, or the packages of an environment that a wheel was installed into."""
MMCV = "pip install --no-build-isolation --no-binary mmcv mmcv==2.1.0"
PYTHONS = ("3.11", "3.12")
WEIGHTS_MODEL = "nano"
# Asked about one by one; the other packages share a line.
_EXPORT = {"onnx": "1.23.2", "onnxruntime": "1.32.0", "openvino": "2026.4.1"}
"""Optional packages, in the versions whose graphs were run and compared: those of requirements/export.txt."""
NAMED = ("torch", "mmcv", "mmdet", "mmdet3d", "mmengine", "nuscenes-devkit")


class Check(TypedDict):
    """One question and its answer."""

    name: str
    """What was asked about."""
    ok: bool
    """Whether it is as it should be."""
    found: str
    """What was found."""
    do: str
    """What to do; empty where nothing is to be done."""


def run() -> Outcome:
    """Ask everything.

    Returns:
        The command's outcome; its details hold ``checks``, a list of ``Check``.
    """
    checks = [_guarded(name, check) for name, check in _CHECKS.items()]
    bad = sum(not check["ok"] for check in checks)
    rows = [[check["name"], "ok" if check["ok"] else "MEND", check["found"], check["do"]] for check in checks]
    headers, keys = ["what", "", "found", "what to do"], ["what", "state", "found", "what to do"]
    answers = plain_table("doctor", title="doctor", headers=headers, rows=rows, keys=keys)
    ask = "asks" if bad == 1 else "ask"
    message = "everything is in place" if bad == 0 else f"{bad} of {len(checks)} checks {ask} for something to be done"
    return Outcome(tables=[answers], messages=[message], details={"checks": checks}, ok=bad == 0)


def _guarded(name: str, check: Callable[[], tuple[bool, str, str]]) -> Check:
    """A check that breaks is an answer too: broken packages raise anything, not only ImportError."""
    try:
        ok, found, do = check()
    except Exception as error:
        ok, found, do = False, f"{type(error).__name__}: {_first_line(error)}", mend()
    return {"name": name, "ok": ok, "found": found, "do": do}


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")[:300]


def mend(*requirements: str) -> str:
    """What brings packages: set-up in a clone; pip where a wheel was installed.

    Args:
        *requirements: What is wanted, such as ``numpy<2``; none means all.
    """
    if (CLONE / "scripts" / "setup.py").is_file():
        return f"run `make setup` in the clone {CLONE}"
    if any(name.startswith("mmcv") for name in requirements):
        return f"compile it, with setuptools<81, wheel and ninja beside torch: `{MMCV}`"
    words = [f'"{name}"' for name in requirements] or ["--upgrade qdbev"]
    return f"run `pip install {' '.join(words)}`"


def wanted(package: str) -> Requirement | None:
    """The project's own requirement of a package, from its installed metadata; None if it has none.

    Raises:
        importlib.metadata.PackageNotFoundError: the project itself is not installed.
    """
    requirements = [Requirement(line) for line in importlib.metadata.requires("qdbev") or []]
    return next((one for one in requirements if one.name == package and one.marker is None), None)


def version_check(package: str) -> tuple[bool, str, str]:
    """Whether a package is installed in the wanted version; it is not imported."""
    requirement = wanted(package)
    specifier = "" if requirement is None else str(requirement.specifier)
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False, "not installed", f"{mend(package + specifier)}: {package}{specifier} is needed"
    if requirement is not None and not requirement.specifier.contains(version, prereleases=True):
        return False, version, f"{package}{specifier} is needed: {mend(package + specifier)}"
    return True, version, ""


def _project() -> tuple[bool, str, str]:
    version = importlib.metadata.version("qdbev")
    return True, f"{version} in {Path(__file__).resolve().parents[2]}", ""


def _python() -> tuple[bool, str, str]:
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    do = "" if version in PYTHONS else "use Python 3.11 or 3.12 (in a clone: `make setup PYTHON=/path/to/python3.11`)"
    return do == "", f"{sys.version.split()[0]} ({sys.executable})", do


def _torch() -> tuple[bool, str, str]:
    ok, found, do = version_check("torch")
    if ok:
        found = f"{importlib.import_module('torch').__version__}, {os.cpu_count()} cores"
        bits = importlib.import_module("qdbev.ops").integer_weight_bits()
        if bits:
            found += f" that multiply bytes, weights of up to {bits} bits"
    return ok, found, do


def _cuda() -> tuple[bool, str, str]:
    torch: Any = importlib.import_module("torch")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        found = f"CUDA {torch.version.cuda}: {', '.join(names)}"
        if importlib.util.find_spec("triton") is not None:
            return True, found, ""
        return True, f"{found}, without Triton: our kernels are torch operations", "quicker with `pip install triton`"
    if not _driver_sees_gpu():
        return True, "no GPU: everything runs on the CPU", ""
    if torch.version.cuda is None:
        return False, "a GPU is here, but torch is a CPU build", f"install a CUDA build of torch, then {mend('mmcv')}"
    return False, f"a GPU is here, but torch (CUDA {torch.version.cuda}) cannot use it", "update the NVIDIA driver"


def _driver_sees_gpu() -> bool:
    if shutil.which("nvidia-smi") is None:
        return False
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return listed.returncode == 0 and "GPU" in listed.stdout


def _mmcv() -> tuple[bool, str, str]:
    ok, found, do = version_check("mmcv")
    if not ok:
        return ok, found, do
    importlib.import_module("torch")
    try:
        operators: Any = importlib.import_module("mmcv._ext")
    except ImportError as error:
        return False, f"{found} without its compiled operators: {_first_line(error)}", mend("mmcv")
    return True, f"{found}, operators compiled for {_operators_device(operators)}", ""


def _operators_device(operators: Any) -> str:
    """mmcv's operators know the CUDA they were compiled with; a build without says so."""
    cuda = operators.get_compiling_cuda_version()
    return "the CPU" if cuda == "not available" else f"CUDA {cuda}"


def _imported(package: str, *, module: str) -> Callable[[], tuple[bool, str, str]]:
    def check() -> tuple[bool, str, str]:
        ok, found, do = version_check(package)
        if ok:
            importlib.import_module(module)
        return ok, found, do

    return check


def _torchvision() -> tuple[bool, str, str]:
    """Not needed; but one that is installed and does not fit torch breaks training in mmengine."""
    if importlib.util.find_spec("torchvision") is None:
        return True, "not installed (none is needed)", ""
    try:
        module: Any = importlib.import_module("torchvision")
    except Exception as error:
        return False, f"installed, but does not import: {_first_line(error)}", "remove it: `pip uninstall torchvision`"
    return True, f"{module.__version__} (none is needed)", ""


def _others() -> tuple[bool, str, str]:
    requirements = [Requirement(line) for line in importlib.metadata.requires("qdbev") or []]
    names = [one.name for one in requirements if one.marker is None and one.name not in NAMED]
    answers = {name: version_check(name) for name in names}
    bad = [f"{name} {found}" for name, (ok, found, _) in answers.items() if not ok]
    if bad:
        return False, ", ".join(bad), mend(*(str(one) for one in requirements if not answers.get(one.name, (True,))[0]))
    return True, f"{len(names)} more packages, all within their ranges", ""


def _export() -> tuple[bool, str, str]:
    """Not needed but for an export to ONNX; which versions work is measured, so others are told."""
    versions = {}
    for name in _EXPORT:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    found = ", ".join(f"{name} {version}" for name, version in versions.items()) or "none"
    tested = [f"{name}=={version}" for name, version in _EXPORT.items()]
    return True, found, "" if versions == _EXPORT else f"for `qdbev export onnx`, tested so: {mend(*tested)}"


def _compiler() -> tuple[bool, str, str]:
    for name in ("g++", "c++"):
        if shutil.which(name) is not None:
            said = subprocess.run([name, "--version"], capture_output=True, text=True, check=False).stdout
            return True, next(iter(said.splitlines()), name), ""
    if _guarded("mmcv", _mmcv)["ok"]:
        return True, "none (only compiling mmcv needs one, and that is done)", ""
    return False, "none", f"install g++ (Debian, Ubuntu: `sudo apt-get install g++`), then {mend('mmcv')}"


def _disk() -> tuple[bool, str, str]:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    do = "" if free >= FREE_DISK_GB else f"make room: artifacts and scenes may take {FREE_DISK_GB:.0f} GB"
    return do == "", f"{free:.1f} GB free", do


def _weights() -> tuple[bool, str, str]:
    """All shipped float weights, every byte verified; nano's must be there."""
    import qdbev
    from pipelines.store.artifacts import Store

    zoo = Store.zoo(Path(qdbev.__file__).parent / "zoo")
    if zoo.last("float", model=WEIGHTS_MODEL) is None:
        return False, "not shipped with this copy", "train them: `qdbev train-float --model nano`"
    shipped = [zoo.verify(folder) for folder in zoo.folders()]
    said = [
        f"{artifact.path.name}, {sum(file.bytes for file in artifact.manifest.files.values()) / 1e6:.1f} MB"
        for artifact in shipped
    ]
    return True, f"{'; '.join(said)}; verified", ""


def _data() -> tuple[bool, str, str]:
    """The synthetic scenes are made on first use: missing ones are no fault."""
    from pipelines.store.locations import cache_folder, synthetic_root
    from profiles.sections.data import DataProfile

    profile = DataProfile()
    cache, root = cache_folder(profile), synthetic_root(profile)
    if not os.access(_existing(cache), os.W_OK):
        return False, f"{cache} cannot be written", "set QDBEV_CACHE to a folder that can"
    if (root / profile.version / "scene.json").is_file():
        return True, f"synthetic scenes in {root}", ""
    return True, f"no synthetic scenes yet in {cache}", "nothing: made on first use (or now: `qdbev data synth`)"


def _existing(folder: Path) -> Path:
    """The folder itself or the nearest one above it that is there."""
    return next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())


_CHECKS: dict[str, Callable[[], tuple[bool, str, str]]] = {
    "qdbev": _project,
    "python": _python,
    "torch": _torch,
    "GPU": _cuda,
    "mmcv operators": _mmcv,
    "mmengine": _imported("mmengine", module="mmengine"),
    "mmdet": _imported("mmdet", module="mmdet"),
    "mmdet3d": _imported("mmdet3d", module="mmdet3d.structures"),
    "nuscenes-devkit": _imported("nuscenes-devkit", module="nuscenes.eval.detection.evaluate"),
    "torchvision": _torchvision,
    "packages": _others,
    "export": _export,
    "compiler": _compiler,
    "disk": _disk,
    "weights": _weights,
    "data": _data,
}
