"""mmcv with its compiled operators: one that works is kept, a wheel built before is taken, else it is compiled.

The operators are C++ against the ABI of one torch and one Python, so a wheel is kept per torch version under
``~/.cache/qdbev/wheels-optimised`` (or below ``$QDBEV_CACHE``), and nothing counts as installed before ``mmcv._ext``
has been imported: a build that does not find torch leaves the operators out and succeeds. Standard library only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from setup_environment import Environment, SetupError, pin
from setup_units import in_units, operator_names

FLAGS = "-O3 -DNDEBUG -g0"
"""Of the compiler. What setuptools finds in CFLAGS and CXXFLAGS takes the place of Python's own flags, -O3 among them;
without debug information the operators take 2 to 7 MB instead of 83 MB."""
MEMORY_PER_JOB_GB = 2.5  # of a unit


def mmcv_wheel(env: Environment, *, jobs: int | None) -> Path | None:
    """A wheel of mmcv for ``env``, which has torch and the build tools: one built before, else compiled now.

    Returns:
        The wheel; None where mmcv works already.
    """
    if mmcv_works(env):
        return None
    cache = _wheel_cache(env)
    if kept := next(cache.glob("mmcv-*.whl"), None):
        env.say(f"{pin('mmcv')}: a wheel built before")
        return kept
    if found := _downloaded_wheel(env):
        env.say(f"{pin('mmcv')}: a built wheel of pip's wheel folders")
        return found
    return _compile(env, jobs=jobs)


def install_mmcv(env: Environment, *, wheel: Path | None) -> None:
    """Make ``import mmcv._ext`` work in ``env``, which has all packages; a built wheel that does not fit is replaced.

    Raises:
        SetupError: The operators cannot be imported, or some of them are missing.
    """
    if wheel is None:
        return
    built = env.folder / "mmcv-build"
    _install(env, wheel)
    if not mmcv_works(env) and wheel.parent != built:
        env.say(f"{pin('mmcv')}: that wheel does not fit this torch")
        wheel = _compile(env, jobs=None)
        _install(env, wheel)
    if not mmcv_works(env):
        raise SetupError("mmcv was built, but its compiled operators (mmcv._ext) cannot be imported.")
    if wheel.parent == built:
        refuse_missing_operators(env, source=fetch_source(env, build=built))
        _keep_wheel(wheel, cache=_wheel_cache(env))
        shutil.rmtree(built, ignore_errors=True)


def refuse_missing_operators(env: Environment, *, source: Path) -> None:
    """Refuse a build that lacks an operator which the sources name."""
    names = operator_names(source)
    lacking = env.answer(f"import torch, mmcv._ext as ops; print(*({names!r} - set(dir(ops))))")
    if lacking != "":
        raise SetupError(f"mmcv was built, but without these operators: {lacking}.")


def _install(env: Environment, wheel: Path) -> None:
    env.pip("install", "--no-deps", "--force-reinstall", wheel, doing="installing mmcv")


def _wheel_cache(env: Environment) -> Path:
    return _wheel_root() / f"torch-{env.answer('import torch; print(torch.__version__)')}"


def mmcv_works(env: Environment) -> bool:
    """Whether the pinned mmcv and its operators import in ``env``."""
    return env.answer("import torch, mmcv._ext; print(mmcv.__version__)") == pin("mmcv").partition("==")[2]


def built_wheel() -> Path | None:
    """An mmcv wheel for this Python in the cache or in pip's local wheel folders; whether it fits torch shows later."""
    folders = [*_wheel_root().glob("torch-*"), *map(Path, os.environ.get("PIP_FIND_LINKS", "").split())]
    name = f"{pin('mmcv').replace('==', '-')}-cp{sys.version_info[0]}{sys.version_info[1]}-*.whl"
    return next((wheel for folder in folders if folder.is_dir() for wheel in folder.glob(name)), None)


def _wheel_root() -> Path:
    return Path(os.environ.get("QDBEV_CACHE") or "~/.cache/qdbev").expanduser() / "wheels-optimised"


def _downloaded_wheel(env: Environment) -> Path | None:
    """A built wheel that pip finds; usually there is none, because the package index has the source package only."""
    found = env.folder / "mmcv-found"
    shutil.rmtree(found, ignore_errors=True)
    words = ("download", "--no-deps", "--only-binary", "mmcv", "-d", found, pin("mmcv"))
    try:
        env.pip(*words, doing="looking for a built mmcv")
    except SetupError:
        return None
    return next(found.glob("mmcv-*.whl"), None)


def _compile(env: Environment, *, jobs: int | None) -> Path:
    """Compile in a folder that stays until it succeeds, so that an interrupted build goes on where it was."""
    build = env.folder / "mmcv-build"
    source = fetch_source(env, build=build)
    settings = build_settings(env, jobs=jobs)
    units = in_units(source, folder=build / "units") if settings["FORCE_CUDA"] == "0" else None
    if units is not None:
        env.say(f"{pin('mmcv')}: compiling its CPU operators, {settings['MAX_JOBS']} of 7 units at a time")
        try:
            return _built(env, source=units, build=build, settings=settings)
        except SetupError:
            env.say(f"{pin('mmcv')}: its units did not compile (the log says why); file by file, as it comes")
    kind = "CUDA" if settings["FORCE_CUDA"] == "1" else "CPU"
    env.say(f"{pin('mmcv')}: compiling its {kind} operators, {settings['MAX_JOBS']} at a time (8 minutes on two cores)")
    return _built(env, source=source, build=build, settings=settings)


def _built(env: Environment, *, source: Path, build: Path, settings: dict[str, str]) -> Path:
    words = ("wheel", "-v", "--no-deps", "--no-build-isolation", "--no-cache-dir", "-w", build, source)
    env.pip(*words, doing="compiling mmcv", extra=settings)
    return next(build.glob("mmcv-*.whl"))


def fetch_source(env: Environment, *, build: Path) -> Path:
    """The unpacked source package, fetched unless it is there."""
    source = build / pin("mmcv").replace("==", "-")
    complete = build / "unpacked"
    if not complete.exists():
        env.say(f"{pin('mmcv')}: the source package")
        build.mkdir(exist_ok=True)
        words = ("download", "--no-deps", "--no-build-isolation", "--no-binary", "mmcv", "-d", build, pin("mmcv"))
        env.pip(*words, doing="fetching mmcv's source package")
        with tarfile.open(next(build.glob("mmcv-*.tar.gz"))) as archive:
            archive.extractall(build, filter="data")
        complete.touch()
    return source


def build_settings(env: Environment, *, jobs: int | None) -> dict[str, str]:
    """Environment variables of the compilation.

    CUDA operators are built only where torch sees a GPU and an nvcc of torch's own CUDA major version is there;
    elsewhere the GPU is hidden, because mmcv compiles CUDA sources wherever torch sees one, nvcc or not.
    """
    with_cuda = _nvcc_fits(env)
    settings = {
        "MMCV_WITH_OPS": "1",
        "FORCE_CUDA": "1" if with_cuda else "0",
        "MAX_JOBS": str(jobs or os.environ.get("MAX_JOBS") or _parallel_jobs()),
        "CFLAGS": f"{FLAGS} {os.environ.get('CFLAGS', '')}".strip(),
        "CXXFLAGS": f"{FLAGS} {os.environ.get('CXXFLAGS', '')}".strip(),
    }
    return settings if with_cuda else {**settings, "CUDA_VISIBLE_DEVICES": ""}


def _nvcc_fits(env: Environment) -> bool:
    cuda = env.answer("import torch; print(torch.version.cuda if torch.cuda.is_available() else '')")
    if not cuda or shutil.which("nvcc") is None:
        return False
    nvcc = subprocess.run(["nvcc", "--version"], capture_output=True, text=True).stdout
    return f"release {cuda.partition('.')[0]}." in nvcc


def _parallel_jobs() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return max(1, min(cores, int(memory_gb / MEMORY_PER_JOB_GB)))


def _keep_wheel(wheel: Path, *, cache: Path) -> None:
    """Copy the wheel into the cache; a cache that cannot be written costs the next clone its minutes, no more."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        part = cache / f"{wheel.name}.tmp-{os.getpid()}"
        shutil.copyfile(wheel, part)
        part.replace(cache / wheel.name)
    except OSError as error:
        print(f"(the built mmcv could not be kept in {cache}: {error})", flush=True)
