"""A mistyped command line is answered by one sentence in the style of all others, on stdout as JSON where asked for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qdbev_cli.app import app

ROOT = Path(__file__).parents[2]
RUN = CliRunner(env={"COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1"})


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["calibrate", "--method", "gpttq"],
            "--method is 'gpttq'; allowed: ptq, dfq, gptq, adaround, brecq, qdrop; did you mean gptq?",
        ),
        (["compress", "--stages", "9"], "--stages is 9; it must be less than or equal to 4"),
        (["compress", "--seed", "abc"], "--seed is 'abc'; allowed: a whole number"),
        (["report", "--format", "xml"], "--format is 'xml'; allowed: table, md, csv, json, html"),
        (["compress", "--profil", "x"], "compress has no option --profil; did you mean --profile?"),
        (
            ["calibrate", "--stages", "2"],
            "calibrate has no option --stages; it is an option of qat-progressive, compress",
        ),
        (
            ["compress", "--strip-metadata"],
            "compress has no option --strip-metadata; it is an option of export onnx",
        ),
        (["report", "-x"], "report has no option -x; `qdbev report -h` lists them"),
        (["compress", "--store"], "--store needs a value"),
        (["compress", "--force=3"], "--force takes no value"),
        (["compress", "x"], "compress takes no argument 'x'"),
        (["comprss"], "there is no command 'comprss'; did you mean compress?"),
        (["artifacts", "shwo"], "there is no command 'shwo'; did you mean show?"),
        (["artifacts", "show"], "artifacts show needs ARTIFACT: path, folder name, start of a digest, or kind:name"),
        (
            ["compress", "--set", "stages=2"],
            "stages is not a field of a profile; did you mean qat.stages or model.backbone",
        ),
        (["compress", "--set", "qat.stagez=2"], "qat.stagez is not a field of a profile; did you mean qat.stages?"),
        (["compress", "--profile", "tiny"], "there is no profile 'tiny'; it is a model: --model tiny"),
        (["compress", "--model", "lsq"], "there is no model 'lsq'; it is a recipe: --recipe lsq"),
        (["compress", "--recipe", "hawq"], "there is no recipe 'hawq'; did you mean hawq-v3?"),
    ],
)
def test_one_style_of_sentence_with_the_nearest_right_word(words: list[str], sentence: str) -> None:
    result = RUN.invoke(app, words, prog_name="qdbev")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"qdbev: {sentence}") and result.stderr.count("\n") == 1


def test_an_error_of_the_parser_is_a_json_document_too() -> None:
    result = RUN.invoke(app, ["compress", "--profil", "x", "--json"])
    assert json.loads(result.stdout) == {
        "error": "compress has no option --profil; did you mean --profile?",
        "exit_code": 2,
    }


def test_a_group_without_a_command_shows_its_help() -> None:
    result = RUN.invoke(app, ["artifacts"])
    assert result.exit_code == 2 and "verify" in result.output and "qdbev:" not in result.output


def test_mistyped_words_are_answered_before_anything_large_is_imported() -> None:
    words = [["calibrate", "--recipe", "foo"], ["compress", "--stages", "9"], ["evaluate", "--set", "x=1"]]
    words += [["evaluate", "qat:typo"], ["export", "packed", "qat:typo"], ["export", "onnx", "qat:typo"]]
    code = (
        "import sys; sys.modules['torch'] = sys.modules['numpy'] = None\n"
        "from typer.testing import CliRunner; from qdbev_cli.app import app\n"
        f"print([CliRunner().invoke(app, words).exit_code for words in {words!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "[2, 2, 2, 3, 3, 3]\n"


def test_python_runs_the_package_as_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "qdbev", "comprss"], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (done.returncode, done.stderr) == (2, "qdbev: there is no command 'comprss'; did you mean compress?\n")


def test_the_first_of_several_processes_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (folder := tmp_path / "attempt_0" / "1").mkdir(parents=True)
    launchers = [{"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}, {"TORCHELASTIC_ERROR_FILE": str(folder / "error.json")}]
    for launcher in launchers:
        answers = []
        for rank in ("1", "0"):
            monkeypatch.setattr("qdbev_cli.speaking._Word.mine", None)
            environment = {"WORLD_SIZE": "2", "RANK": rank, **launcher}
            answers.append(RUN.invoke(app, ["evaluate", "--nothing", "--json"], env=environment))
        assert [answer.exit_code for answer in answers] == [2, 2]
        assert json.loads(answers[0].stdout)["exit_code"] == 2 and "no option --nothing" in answers[0].stderr
        assert answers[1].output == ""


@pytest.mark.parametrize(
    ("stated", "phrase"),
    [
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE is 'x', where a launcher says a whole number"),
        ({"WORLD_SIZE": "2", "RANK": "-1"}, "RANK is '-1'"),
        ({"WORLD_SIZE": "2", "RANK": "3"}, "RANK is 3 of WORLD_SIZE 2"),
        ({"RANK": "1"}, "RANK is 1 of WORLD_SIZE 1"),
    ],
)
def test_what_no_launcher_says_of_processes_is_refused(stated: dict[str, str], phrase: str, tmp_path: Path) -> None:
    result = RUN.invoke(app, ["artifacts", "list", "--store", str(tmp_path)], env=stated)
    assert result.exit_code == 2 and phrase in result.stderr and "Traceback" not in result.stderr
