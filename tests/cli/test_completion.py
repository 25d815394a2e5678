"""What the shell offers: by the words that bash hands over, and by the functions themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from qdbev_cli import completion

ROOT = Path(__file__).parents[2]


def offered(*words: str) -> list[str]:
    """The answer to bash, with the last word unfinished and torch out of reach."""
    code = "import sys; sys.modules['torch'] = None; from qdbev_cli.app import app; app(prog_name='qdbev')"
    asked = {"_QDBEV_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=os.environ | asked
    )
    return done.stdout.splitlines()


def test_artifacts_of_the_store_that_the_line_names(tmp_path: Path) -> None:
    for name in ("qat-w4a6-nano-1", "qat-w4a6-nano-2", "evaluation-w4a6-nano-3", ".scratch"):
        (tmp_path / name).mkdir()
    words = ("qdbev", "artifacts", "show", "--store", str(tmp_path), "qat-")
    assert offered(*words) == ["qat-w4a6-nano-1", "qat-w4a6-nano-2"]


def test_profiles_models_and_recipes() -> None:
    assert offered("qdbev", "compress", "--profile", "w4") == ["w4a4", "w4a6"]
    assert [name for name, _ in completion.model_names("detr")] == ["detr3d-r50", "detr3d"]
    assert dict(completion.recipe_names("lsq"))["lsq-plus"].startswith("LSQ+")
    assert [name for name, _ in completion.shown_names("ti")] == ["tiny"]


def test_fields_and_behind_the_equals_sign_their_values() -> None:
    assert dict(completion.fields("qat.stag")) == {
        "qat.stages=": dict(completion.fields("qat.stages"))["qat.stages="],
        "qat.stage_multipliers=": dict(completion.fields("qat.stage_"))["qat.stage_multipliers="],
    }
    assert [word for word, _ in completion.fields("calibration.method=g")] == ["calibration.method=gptq"]
    assert [word for word, _ in completion.fields("qat.photometric=")] == [
        "qat.photometric=true",
        "qat.photometric=false",
    ]
    assert completion.fields("seed=") == completion.fields("qat.nothing=") == []
