"""Exit codes, sentences and the two ways to print a result."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import pty
import struct
import termios
from pathlib import Path

import pytest
import typer

import profiles
from pipelines.reporting.outcome import Outcome
from pipelines.store.artifacts import Artifact, DamagedArtifact, MissingArtifact, Store, StoreUnwritable
from profiles import ProfileError
from qdbev.reporting.tables.rounding import megabytes_text
from qdbev.reporting.tables.table import Table, number_column, plain_table
from qdbev_cli.console import as_document, as_text, exit_code, guarded, line_width

TABLE = plain_table(
    "accuracy",
    title="Accuracy",
    headers=["detector", "NDS", "drop", "n"],
    rows=[["float", 0.41234, None, 7], ["W4A6", 0.4, float("nan"), 12]],
    notes=["60 scenes"],
)
EMPTY = {
    "artifact": None,
    "tables": [],
    "metrics": {},
    "messages": [],
    "would_do": [],
    "ok": True,
    "exit_code": 0,
}


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return Store(tmp_path).seal("qat", profile=profiles.load("w4a6"), key="c" * 64, write=lambda folder: None)


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


def test_text_is_tables_messages_and_last_what_was_made(artifact: Artifact) -> None:
    text = as_text(Outcome(artifact, tables=[TABLE, TABLE], messages=["done"], metrics={"nds": 0.4}))
    table = [
        "Accuracy",
        "",
        "detector       NDS    drop    n",
        "----------  ------  ------  ---",
        "float       0.4123       –    7",
        "W4A6        0.4000       –   12",
        "",
        "60 scenes",
        "",
    ]
    made = f"qat w4a6-nano ({artifact.digest[:12]}): {artifact.path}"
    assert text.splitlines() == [*table, *table, "done", made]


@pytest.mark.parametrize(("columns", "width"), [(24, 24), (80, 80), (0, None)])
def test_tables_are_folded_to_the_terminal_that_stdout_is(
    monkeypatch: pytest.MonkeyPatch, columns: int, width: int | None
) -> None:
    assert line_width() is None  # no terminal
    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(terminal, "w") as stdout, monkeypatch.context() as patch:
        patch.setattr("sys.stdout", stdout)
        assert line_width() == width
        guarded(lambda: Outcome(tables=[TABLE]), as_json=False)
    shown = os.read(master, 4096).decode().replace("\r\n", "\n")
    os.close(master)
    assert shown == f"{as_text(Outcome(tables=[TABLE]), width=width)}\n"
    assert (shown != f"{as_text(Outcome(tables=[TABLE]))}\n") == (width == 24)


def test_text_of_a_dry_run() -> None:
    assert as_text(Outcome(would_do=["calibrate", "train"])) == "Would do:\n  calibrate\n  train"
    assert as_text(Outcome(messages=["done"])) == "done"


def test_a_table_without_rows_or_title() -> None:
    empty = Outcome(tables=[plain_table("empty", title="", headers=["a", "b"], rows=[])])
    assert as_text(empty) == "a    b\n---  ---"
    assert json.loads(as_document(empty))["tables"] == [
        {"name": "empty", "title": "", "headers": ["a", "b"], "rows": [], "notes": []}
    ]


def test_a_document_has_stdout_for_itself_to_the_byte(capsys: pytest.CaptureFixture[str]) -> None:
    curve = ["training curve: runs/_report/curve.png"]
    result = Outcome(tables=[TABLE], document="a,b\n1,2\n", messages=curve)
    guarded(lambda: result, as_json=False)
    assert capsys.readouterr() == ("a,b\n1,2\n", "training curve: runs/_report/curve.png\n")
    guarded(lambda: Outcome(tables=[TABLE], document="", messages=["report: r.csv"]), as_json=False)
    assert capsys.readouterr() == ("", "report: r.csv\n")
    printed = json.loads(as_document(result))
    assert (printed.keys(), printed["messages"]) == (EMPTY.keys(), curve)


def test_json_has_all_fields_and_the_details_beside_them(artifact: Artifact) -> None:
    assert json.loads(as_document(Outcome())) == EMPTY
    made = json.loads(as_document(Outcome(artifact, details={"damaged": ["x"]}, ok=False)))
    assert made == EMPTY | {"artifact": artifact.summary(), "damaged": ["x"], "ok": False, "exit_code": 3}


def test_json_has_null_for_undefined_numbers_and_text_for_paths(tmp_path: Path) -> None:
    import numpy as np

    metrics = {"x": float("nan"), "y": (1, np.float32(0.5)), "path": tmp_path}
    read = json.loads(as_document(Outcome(tables=[TABLE], metrics=metrics)))
    assert read["metrics"] == {"x": None, "y": [1, 0.5], "path": str(tmp_path)}
    assert read["tables"][0]["rows"][1] == ["W4A6", 0.4, None, 12]


def test_json_of_a_table_holds_every_entry_unrounded() -> None:
    column = number_column("nominal_bytes", head="nominal MB", rule=megabytes_text)
    table = Table("size", "Size", (column,), ({"nominal_bytes": 1234567.5}, {"nominal_bytes": 1, "bits": "W4"}))
    [read] = json.loads(as_document(Outcome(tables=[table])))["tables"]
    assert (read["headers"], read["rows"]) == (["nominal_bytes", "bits"], [[1234567.5, None], [1, "W4"]])


def test_a_users_mistake_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> Outcome:
        raise ProfileError("quantization.weight_bits is 9")

    with pytest.raises(typer.Exit) as caught:
        guarded(fail, as_json=False)
    assert caught.value.exit_code == 2
    assert capsys.readouterr() == ("", "qdbev: quantization.weight_bits is 9\n")


def test_debug_shows_where(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QDBEV_DEBUG", "1")
    with pytest.raises(typer.Exit):
        guarded(lambda: Outcome(metrics={"x": int("no")}), as_json=False)
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_says_so_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught:
        guarded(lambda: Outcome(metrics={}["missing"]), as_json=False)
    err = capsys.readouterr().err
    assert caught.value.exit_code == 1
    assert "Traceback" in err
    assert err.endswith("qdbev: this is a bug in qdbev (KeyError: 'missing')\n")


@pytest.mark.parametrize("as_json", [True, False])
def test_stdout_holds_the_result_alone_whatever_libraries_print(
    capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    def chatty() -> Outcome:
        print("Loading NuScenes tables ...")
        return Outcome(messages=["done"])

    guarded(chatty, as_json=as_json)
    out, err = capsys.readouterr()
    assert (json.loads(out) if as_json else out) == (EMPTY | {"messages": ["done"]} if as_json else "done\n")
    assert err == "Loading NuScenes tables ...\n"


def test_with_json_an_error_is_a_document_too(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> Outcome:
        raise MissingArtifact("there is no artifact 'x'")

    with pytest.raises(typer.Exit):
        guarded(fail, as_json=True)
    out, err = capsys.readouterr()
    assert json.loads(out) == {"error": "there is no artifact 'x'", "exit_code": 3}
    assert err == "qdbev: there is no artifact 'x'\n"


def test_a_system_error_names_its_file(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> Outcome:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "/data/nuscenes")

    with pytest.raises(typer.Exit):
        guarded(fail, as_json=False)
    assert capsys.readouterr().err == "qdbev: /data/nuscenes: No such file or directory\n"


def test_what_is_missing_or_damaged_ends_with_the_code_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as caught:
        guarded(lambda: Outcome(messages=["missing: mmcv"], ok=False), as_json=False)
    assert caught.value.exit_code == 3
    assert capsys.readouterr().out == "missing: mmcv\n"


def test_what_is_logged_as_a_warning_is_a_sentence_on_stderr_as_it_comes(capsys: pytest.CaptureFixture[str]) -> None:
    def action() -> Outcome:
        logging.getLogger("pipelines.assembly.job").warning("%s", "no CAN bus for 2 of 2 scenes")
        assert capsys.readouterr().err == "qdbev: no CAN bus for 2 of 2 scenes\n"
        return Outcome()

    guarded(action, as_json=False)
    assert not logging.getLogger("pipelines").handlers
