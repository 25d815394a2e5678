"""Exit codes, sentences and the two ways to print a result."""

from __future__ import annotations

import errno
import json
from typing import Any

import pytest
import typer

from pipelines.store.artifacts import DamagedArtifact, MissingArtifact, StoreUnwritable
from profiles import ProfileError
from qdbev_cli.console import as_document, as_text, exit_code, guarded

TABLE = {
    "title": "Accuracy",
    "headers": ["detector", "NDS", "drop", "n"],
    "rows": [["float", 0.41234, None, 7], ["W4A6", 0.4, float("nan"), 12]],
    "notes": ["60 scenes"],
}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ProfileError("x"), 2),
        (ValueError("x"), 2),
        (NotImplementedError("dfq follows"), 2),
        (MissingArtifact("x"), 3),
        (DamagedArtifact("x"), 3),
        (StoreUnwritable("x"), 3),
        (FileNotFoundError(errno.ENOENT, "No such file", "/x"), 3),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 3),
        (OSError(errno.ENOSPC, "No space left on device"), 3),
        (OSError(errno.EIO, "I/O error"), 1),
        (KeyError("x"), 1),
        (RuntimeError("x"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes(error: BaseException, code: int) -> None:
    assert exit_code(error) == code


def test_text_is_tables_messages_and_last_what_was_made() -> None:
    artifact = {"kind": "qat", "name": "w4a6-nano", "path": "runs/qat-w4a6-nano-0", "digest": "ab" * 32, "key": "c"}
    text = as_text({"tables": [TABLE], "messages": ["done"], "artifact": artifact, "metrics": {"nds": 0.4}})
    assert text.splitlines() == [
        "Accuracy",
        "",
        "detector       NDS    drop    n",
        "----------  ------  ------  ---",
        "float       0.4123       -    7",
        "W4A6        0.4000       -   12",
        "60 scenes",
        "",
        "done",
        "qat w4a6-nano (abababababab): runs/qat-w4a6-nano-0",
    ]


def test_text_of_a_dry_run() -> None:
    assert (
        as_text({"plan": ["calibrate", {"stage": 1, "steps": 90}]}) == "Would do:\n  calibrate\n  stage: 1, steps: 90"
    )
    assert as_text({"plan": [], "messages": ["done"]}) == "done"


def test_a_table_without_rows_or_title() -> None:
    assert as_text({"tables": [{"title": "", "headers": ["a", "b"], "rows": [], "notes": []}]}).split() == [
        "a",
        "b",
        "---",
        "---",
    ]


def test_verbatim_text_comes_before_what_was_made_and_stays_out_of_json() -> None:
    artifact = {"kind": "compression", "name": "w4a6-nano", "path": "runs/x", "digest": "ab" * 32, "key": "c"}
    result = {"messages": ["compressed"], "text": "a: 1\n", "artifact": artifact}
    assert as_text(result) == "a: 1\n\ncompressed\ncompression w4a6-nano (abababababab): runs/x"
    assert json.loads(as_document(result)) == {"messages": ["compressed"], "artifact": artifact}


def test_a_document_has_stdout_for_itself_to_the_byte(capsys: pytest.CaptureFixture[str]) -> None:
    result = {"document": "a,b\n1,2\n", "messages": ["training curve: runs/_report/curve.png"]}
    guarded(lambda: result, as_json=False)
    assert capsys.readouterr() == ("a,b\n1,2\n", "training curve: runs/_report/curve.png\n")
    guarded(lambda: {"document": "", "messages": ["report: r.csv"]}, as_json=False)
    assert capsys.readouterr() == ("", "report: r.csv\n")
    assert json.loads(as_document(result)) == {"messages": ["training curve: runs/_report/curve.png"]}


def test_json_has_null_for_undefined_numbers_and_text_for_paths(tmp_path: Any) -> None:
    import numpy as np

    document = as_document({"x": float("nan"), "y": (1, np.float32(0.5)), "path": tmp_path, "tables": [TABLE]})
    read = json.loads(document)
    assert (read["x"], read["y"], read["path"]) == (None, [1, 0.5], str(tmp_path))
    assert read["tables"][0]["rows"][1] == ["W4A6", 0.4, None, 12]


def test_a_users_mistake_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> dict[str, Any]:
        raise ProfileError("quantization.weight_bits is 9")

    with pytest.raises(typer.Exit) as caught:
        guarded(fail, as_json=False)
    assert caught.value.exit_code == 2
    assert capsys.readouterr() == ("", "qdbev: quantization.weight_bits is 9\n")


def test_debug_shows_where(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QDBEV_DEBUG", "1")
    with pytest.raises(typer.Exit):
        guarded(lambda: {"x": int("no")}, as_json=False)
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_says_so_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught:
        guarded(lambda: {"x": {}["missing"]}, as_json=False)
    err = capsys.readouterr().err
    assert caught.value.exit_code == 1
    assert "Traceback" in err
    assert err.endswith("qdbev: this is a bug in qdbev (KeyError: 'missing')\n")


@pytest.mark.parametrize("as_json", [True, False])
def test_stdout_holds_the_result_alone_whatever_libraries_print(
    capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    def chatty() -> dict[str, Any]:
        print("Loading NuScenes tables ...")
        return {"messages": ["done"]}

    guarded(chatty, as_json=as_json)
    out, err = capsys.readouterr()
    assert (json.loads(out) if as_json else out) == ({"messages": ["done"]} if as_json else "done\n")
    assert err == "Loading NuScenes tables ...\n"


def test_with_json_an_error_is_a_document_too(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> dict[str, Any]:
        raise MissingArtifact("there is no artifact 'x'")

    with pytest.raises(typer.Exit):
        guarded(fail, as_json=True)
    out, err = capsys.readouterr()
    assert json.loads(out) == {"error": "there is no artifact 'x'", "exit_code": 3}
    assert err == "qdbev: there is no artifact 'x'\n"


def test_a_system_error_names_its_file(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> dict[str, Any]:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "/data/nuscenes")

    with pytest.raises(typer.Exit):
        guarded(fail, as_json=False)
    assert capsys.readouterr().err == "qdbev: /data/nuscenes: No such file or directory\n"


def test_a_command_may_end_with_its_own_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught:
        guarded(lambda: {"messages": ["missing: mmcv"], "exit_code": 3}, as_json=False)
    assert caught.value.exit_code == 3
    assert capsys.readouterr().out == "missing: mmcv\n"
