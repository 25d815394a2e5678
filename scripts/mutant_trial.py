"""One mutant in a copy of the tree: made, run against stage after stage of tests, undone."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from mutant_tests import stages_of
from mutants import Mutant

ROOT = Path(__file__).resolve().parent.parent
NOTHING_COLLECTED = 5


def files_of_tree() -> list[str]:
    """Name what git knows or would take, from the project's folder."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return sorted(path for path in listed if (ROOT / path).is_file())


@dataclass(frozen=True)
class Row:
    """What became of one mutant."""

    key: str
    verdict: str
    place: str
    kind: str
    before: str
    after: str
    stage: str
    test: str
    seconds: float


@dataclass(frozen=True)
class Options:
    """How long and how far a mutant is tried."""

    limit_s: float
    whole_suite: bool


class Copy:
    """A copy of the tree in which one mutant at a time lives."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "project"
        for path in files_of_tree():
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / path, self.root / path)
        if (ROOT.parent / "shared").is_dir():
            (folder / "shared").symlink_to(ROOT.parent / "shared")

    def tried(self, mutant: Mutant, *, options: Options) -> Row:
        """Make the change, run stage after stage until a test sees it, and undo it."""
        began, file = time.monotonic(), self.root / mutant.path
        source = file.read_bytes()
        file.write_bytes(mutant.applied(source))
        verdict, stage, test = "survived", "", ""
        try:
            for stage, paths in stages_of(self.root, mutant.path, whole_suite=options.whole_suite).items():
                left_s = options.limit_s - (time.monotonic() - began)
                verdict, test = self._run(paths, mutant=mutant, limit_s=left_s, fast=stage == "the suite")
                if verdict != "survived":
                    break
        finally:
            file.write_bytes(source)
        if verdict == "killed" and not self._passes(test, limit_s=options.limit_s):
            verdict = "fails without it too"
        where = f"{mutant.path}:{mutant.line}"
        seconds = round(time.monotonic() - began, 1)
        return Row(mutant.key, verdict, where, mutant.kind, mutant.before, mutant.after, stage, test, seconds)

    def _passes(self, test: str, *, limit_s: float) -> bool:
        """Whether the test that killed passes on the unchanged code."""
        return self._run([test], mutant=None, limit_s=limit_s, fast=False)[0] == "survived"

    def _run(self, paths: list[str], *, mutant: Mutant | None, limit_s: float, fast: bool) -> tuple[str, str]:
        """Give the verdict of one run of pytest, and the first test that failed."""
        marks = ["-m", "not slow"] if fast else []
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-rfE", "--no-header", "--tb=no"]
        command += ["-p", "no:cacheprovider", *marks, *paths]
        process = subprocess.Popen(
            command,
            cwd=self.root,
            env=self._environment(mutant),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output = process.communicate(timeout=max(limit_s, 1))[0]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return "timeout", ""
        if process.returncode in (0, NOTHING_COLLECTED):
            return "survived", ""
        failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", output, flags=re.MULTILINE)
        return "killed", failed.group(1) if failed else paths[0]

    def _environment(self, mutant: Mutant | None) -> dict[str, str]:
        """One thread, the same random examples in every run, no byte code or compiled kernel of another mutant."""
        kernels = self.root.parent / "kernels"
        if mutant and b"numba" in (self.root / mutant.path).read_bytes():
            kernels = kernels / mutant.key
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "MPLBACKEND": "Agg", "CI": "1"}
        caches = {"PYTHONDONTWRITEBYTECODE": "1", "NUMBA_CACHE_DIR": str(kernels)}
        return {**os.environ, **threads, **caches, "PYTHONPATH": str(self.root)}
