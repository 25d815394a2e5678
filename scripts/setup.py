"""Set-up: from a fresh clone to a working ``.venv``; run by ``make setup`` with any Python 3.11 or 3.12.

Standard library only. Order: what can be refused before a download (Python, compiler, disk), then the virtual
environment, torch, the complete pinned lists of ``requirements/`` while mmcv is compiled from its source package
against that torch (``setup_mmcv.py``), and the project itself. Every step looks first whether it is done, so an
interrupted set-up goes on. The whole output of pip and the compiler is in ``.venv/setup.log``.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setup_environment import REQUIREMENTS, ROOT, Environment, SetupError, pin
from setup_mmcv import built_wheel, install_mmcv, mmcv_wheel, mmcv_works

VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
PYTHONS = ("3.11", "3.12")
DISK_GB = 3.0
TORCH_SIZE = "the largest download, 0.2 GB for CPUs, 1.5 GB where the index has CUDA builds"
LISTS_SIZE = "96 downloads, 0.4 GB"


def check_python() -> None:
    """The interpreter that runs this script becomes the environment's."""
    if VERSION not in PYTHONS:
        raise SetupError(
            f"This is Python {VERSION}, and 3.11 or 3.12 is needed: install one (or name it: "
            "`make setup PYTHON=/path/to/python3.11`)."
        )


def check_compiler() -> None:
    """The operators of mmcv need a C++ compiler and Python's headers, unless a built wheel is at hand."""
    if built_wheel() is not None:
        return
    chosen = os.environ.get("CXX", "").split(" ")[0]
    if not any(shutil.which(name) for name in (chosen, "g++", "c++") if name):
        raise SetupError(
            "No C++ compiler (g++) was found, and mmcv's operators are compiled from source: install one "
            "(Debian, Ubuntu: `sudo apt-get install g++`; Fedora: `sudo dnf install gcc-c++`)."
        )
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        raise SetupError(
            "Python's header files are missing, and mmcv's operators are compiled against them: install them "
            f"(Debian, Ubuntu: `sudo apt-get install python{VERSION}-dev`)."
        )


def check_disk(folder: Path) -> None:
    """Room for the packages and for mmcv's object files."""
    free = shutil.disk_usage(folder.parent).free / 1e9
    if free < DISK_GB:
        raise SetupError(
            f"{free:.1f} GB are free on the disk of {folder.parent}, and about {DISK_GB:.0f} GB are needed (about 8 GB "
            "where torch comes with CUDA): make room."
        )


def make_environment(env: Environment) -> None:
    """A fresh virtual environment, unless a working one is there: that is kept, whoever made it."""
    found = env.answer("import pip, sys; print('%d.%d' % sys.version_info[:2])") if env.python.exists() else None
    if found in PYTHONS:
        return
    if found is not None or (env.folder.exists() and not (env.folder / "pyvenv.cfg").exists()):
        what = f"an environment of Python {found}" if found else "no virtual environment"
        raise SetupError(f"{env.folder} is there and is {what}: move it away.")
    print(f"Setting up {env.folder} with Python {VERSION}; the full log: {env.log}", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", str(env.folder)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SetupError(
            f"`{sys.executable} -m venv` failed (Debian, Ubuntu: `sudo apt-get install python{VERSION}-venv`): "
            f"{(done.stdout + done.stderr).strip()[-600:]}"
        )


def torch_range() -> str:
    """The range of torch in pyproject.toml, for example ``>=2.6,<2.14``."""
    import tomllib  # new in Python 3.11, and this file is read by an older one first, to say so

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return next(line.removeprefix("torch") for line in project["dependencies"] if line.startswith("torch>"))


def install_torch(env: Environment) -> None:
    """Torch first, because mmcv is compiled against it; one that is there and within the range is kept."""
    found = env.answer("import torch; print(torch.__version__)")
    if found is None:
        env.say(f"{pin('torch')}: {TORCH_SIZE}")
        constraints = [word for name in ("build", "runtime") for word in ("-c", REQUIREMENTS / f"{name}.txt")]
        env.pip("install", "-r", REQUIREMENTS / "torch.txt", *constraints, doing="installing torch")
        return
    wanted = torch_range()
    within = env.answer(f"from packaging.specifiers import SpecifierSet as S; print({found!r} in S({wanted!r}))")
    if within != "True":
        raise SetupError(
            f"torch {found} is installed in {env.folder}, and torch{wanted} is needed (mmcv 2.1.0 does not compile "
            "against 2.14): install one of these there, or remove the folder."
        )
    env.say(f"torch {found} is there: kept")


def install_lists(env: Environment) -> None:
    """The complete pinned lists, without dependency resolution: requirements/runtime.txt says why."""
    env.say(f"the pinned packages: {LISTS_SIZE}")
    lists = [word for name in ("runtime", "dev", "export") for word in ("-r", REQUIREMENTS / f"{name}.txt")]
    env.pip("install", "--no-deps", *lists, doing="installing the pinned packages")


def install_lists_and_mmcv(env: Environment, *, jobs: int | None) -> None:
    """The pinned packages while mmcv is compiled, which needs torch alone; then mmcv."""
    packages = env.beside("packages.log")
    packages.log.unlink(missing_ok=True)
    try:
        with ThreadPoolExecutor(1) as beside:
            installed = beside.submit(install_lists, packages)
            wheel = mmcv_wheel(env, jobs=jobs)
            installed.result()
    finally:
        if packages.log.is_file():
            with env.log.open("a", encoding="utf-8") as log:
                log.write(packages.log.read_text(encoding="utf-8", errors="replace"))
            packages.log.unlink()
    install_mmcv(env, wheel=wheel)


def install_project(env: Environment) -> None:
    """The four packages, editable."""
    env.say("the project")
    env.pip("install", "--no-deps", "--no-build-isolation", "-e", ROOT, doing="installing the project")


def fingerprint(env: Environment) -> str:
    """What set-up depends on: lists, scripts, project file, place, and torch, mmcv and qdbev as installed."""
    digest = hashlib.sha256(str(ROOT).encode())
    scripts = sorted(Path(__file__).resolve().parent.glob("setup*.py"))
    for file in [*sorted(REQUIREMENTS.glob("*.txt")), ROOT / "pyproject.toml", *scripts]:
        digest.update(file.read_bytes())
    for kind in ("torch", "mmcv", "qdbev"):
        installed = env.folder.glob(f"lib/python3.*/site-packages/{kind}-*.dist-info")
        digest.update(" ".join(sorted(str(folder) for folder in installed)).encode())
    return digest.hexdigest()


def set_up(env: Environment, *, jobs: int | None) -> None:
    """Every step in order; the stamp is written last."""
    check_python()
    if env.python.exists() and env.stamp.is_file() and env.stamp.read_text(encoding="utf-8") == fingerprint(env):
        return
    if not env.python.exists() or not mmcv_works(env):
        check_compiler()
        check_disk(env.folder)
    make_environment(env)
    env.stamp.unlink(missing_ok=True)
    env.say("pip, setuptools, wheel, ninja")
    env.pip("install", "--no-deps", "-r", REQUIREMENTS / "build.txt", doing="installing the build tools")
    install_torch(env)
    install_lists_and_mmcv(env, jobs=jobs)
    install_project(env)
    env.stamp.write_text(fingerprint(env), encoding="utf-8")
    env.say(f"set-up is done: {env.folder}/bin/qdbev --help")


def main() -> int:
    """Parse the two options, run, and turn a failure into the log's last lines and a sentence."""
    parser = argparse.ArgumentParser(description="Make .venv with everything the project needs.")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="folder of the environment (default: .venv)")
    parser.add_argument("--jobs", type=int, default=None, help="compiler processes for mmcv (default: all cores)")
    options = parser.parse_args()
    env = Environment(options.venv.absolute())
    try:
        set_up(env, jobs=options.jobs)
    except SetupError as error:
        if env.log.is_file():
            tail = env.log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
            print(*tail, f"\nThe whole log: {env.log}", sep="\n", file=sys.stderr)
        print(
            f"\nSet-up stopped: {error}\nMend that and run `make setup` again: it goes on from here.", file=sys.stderr
        )
        return 1
    except KeyboardInterrupt:
        print("\nSet-up was interrupted; `make setup` goes on from here.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
