"""``qdbev report`` through the shell, on a store sealed by hand: what stdout holds, what ``--out`` means, titles."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

import profiles
from pipelines.lineage.chain import link_name
from pipelines.lineage.keys import compression_key
from pipelines.lineage.stated import stated_data, stated_weights
from pipelines.reporting.chain_tables import few_scenes
from pipelines.store.artifacts import Artifact, Store
from qdbev.reporting.charts import curve
from qdbev_cli.app import app

RUN = CliRunner(env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"})
PNG = b"\x89PNG a picture"
COST = {"size_nominal_mb": 4.0, "gbops": {"backbone": 3.0, "neck": 1.0, "total": 4.0}}
SCORED = {"samples": 4, "scenes": 2, "split": "val", "data": "d"}
CURVE = json.dumps([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]).encode()
FORMATS = ("table", "md", "csv", "json", "html")


def seal(store: Store, kind: str, *, key: int = 0, profile: str = "w4a6", **fields: Any) -> Artifact:
    files = fields.pop("files", {})

    def write(folder: Path) -> None:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        if kind in ("float", "qat"):
            save_file({"a": np.zeros(4, np.float32)}, folder / "model.safetensors")

    return store.seal(kind, profile=profiles.load(profile), key=str(key) * 64, write=write, **fields)


def scores(nds: float) -> dict[str, Any]:
    return {"NDS": nds, "mAP": nds, **dict.fromkeys(("mATE", "mASE", "mAOE", "mAVE", "mAAE"), 0.5), **COST}


def measure(
    store: Store, *, bits: str, level: str, key: int, worst: float, scenes: int = 2, val: str = "d"
) -> Artifact:
    """A sensitivity of the profile w4a6 with other bits, as ``sensitivity --bits`` seals it."""
    weights, activations = re.fullmatch(r"w(\d)a(\d)", bits).groups()  # type: ignore[union-attr]
    words = [f"quantization.weight_bits={weights}", f"quantization.activation_bits={activations}"]
    rows = [{"name": name, "part": "", "NDS": nds, "mAP": nds} for name, nds in (("float", 0.4), ("neck", worst))]
    return store.seal(
        "sensitivity",
        profile=profiles.load("w4a6", overrides=words),
        key=str(key) * 64,
        write=lambda folder: (folder / "sensitivity.png").write_bytes(PNG + bits.encode()),
        data={"level": level, "scenes": scenes, "val": val},
        metrics={"rows": rows},
    )


@pytest.fixture(scope="module", autouse=True)
def curves_drawn_once() -> Iterator[None]:
    """Most stores here hold the same two points; their picture is the same too."""
    drawn: dict[str, bytes] = {}
    draw = curve.curve_picture

    def curve_picture(*points: Any, **options: Any) -> bytes:
        said = json.dumps([points, options])
        if said not in drawn:
            drawn[said] = draw(*points, **options)
        return drawn[said]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curve, "curve_picture", curve_picture)
        yield


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Float and one stage of QAT, both evaluated."""
    store = Store(tmp_path / "runs")
    start = seal(store, "float", profile="float")
    data = {"parts": ["backbone", "neck", "encoder", "decoder"], "stage": 1, "stages": 1}
    trained = seal(store, "qat", parents={"start": start.digest}, data=data, metrics=COST, files={"curve.json": CURVE})
    for key, (model, nds) in enumerate(((start, 0.4), (trained, 0.39)), start=1):
        seal(store, "evaluation", key=key, parents={"model": model.digest}, data=SCORED, metrics=scores(nds))
    return store


def unfinished(store: Store) -> str:
    goes_on = f"`qdbev compress --profile w4a6 --model nano --store {store.root}` goes on"
    return f"this run is not finished: distillation missing; {goes_on}"


def report(store: Store, *words: str | Path) -> Any:
    return RUN.invoke(app, ["report", "--store", str(store.root), *map(str, words)])


def files_under(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# -- which run is shown --------------------------------------------------------------------------------------------


def compress(
    store: Store, *words: str, nds: float, key: int, scored_on: str = "d", calibrated: Artifact | None = None
) -> None:
    """A compression as ``compress`` seals it, under the key of its profile."""
    profile = profiles.load("w4a6", overrides=words)
    start = store.last("float")
    assert start is not None
    data = {"parts": ["backbone", "neck", "encoder", "decoder"], "stage": 4, "stages": 4, "train": "t"}
    cost = COST | {"steps": 2 * (str(profile.qat.steps_per_stage) != "0")}

    def write(folder: Path) -> None:
        save_file({"a": np.ones(key, np.float32)}, folder / "model.safetensors")
        (folder / "curve.json").write_text(json.dumps([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]))

    fields: dict[str, Any] = {"profile": profile, "write": write, "data": data, "metrics": cost}
    end = store.seal("qat", key=f"{key}" * 64, parents={"start": (calibrated or start).digest}, **fields)
    parents = {"model": end.digest}
    for name, model, value in (("float", start, 0.4), (link_name(end), end, nds)):
        score = store.seal(
            "evaluation",
            profile=profile,
            key=f"{key}{len(parents)}" * 32,
            write=lambda folder: None,
            parents={"model": model.digest},
            data=SCORED | {"data": scored_on},
            metrics=scores(value),
        )
        parents[f"evaluation of {name}"] = score.digest
    weights, told = stated_weights(profile, store=store), stated_data(profile.data)
    store.seal(
        "compression",
        profile=profile,
        key=compression_key(profile, controls=False, weights=weights, data=told),
        write=lambda folder: None,
        parents=parents,
        metrics={"intervals": {}, "float": scores(0.4), link_name(end): scores(nds)},
    )


def shown(store: Store, *words: str) -> tuple[dict[str, float], str]:
    """NDS by model of the accuracy table, and all that is said beside the tables."""
    result = report(store, "--json", *(word for setting in words for word in ("--set", setting)))
    document = json.loads(result.stdout)
    assert result.exit_code == 0, document
    tables = {table["name"]: table for table in document["tables"]}
    rows = tables["accuracy"]["rows"] if "accuracy" in tables else []
    place = tables["accuracy"]["headers"].index("NDS") if rows else 0
    return {row[0]: row[place] for row in rows}, " ".join(document["messages"])


def test_the_run_that_the_options_describe_is_shown_or_none(store: Store) -> None:
    compress(store, "seed=1", nds=0.31, key=3)
    compress(store, "seed=2", nds=0.32, key=4)
    assert shown(store, "seed=1")[0] == {"float": 0.4, "QAT 4/4": 0.31}
    assert shown(store, "seed=2")[0] == {"float": 0.4, "QAT 4/4": 0.32}
    scores_, said = shown(store, "seed=7")
    assert scores_ == {} and "holds nothing measured of --profile w4a6 --model nano --set seed=7" in said


def test_without_options_an_unfinished_run_says_so_and_else_the_newest_is_shown_with_its_options(store: Store) -> None:
    scores_, said = shown(store)
    assert (
        scores_ == {"float": 0.4, "QAT 1/1": 0.39}
        and "this run is not finished: distillation missing; `qdbev compress" in said
    )
    shutil.rmtree(next(store.root.glob("qat-*")))
    compress(store, "seed=1", nds=0.31, key=3)
    scores_, said = shown(store)
    assert scores_ == {"float": 0.4, "QAT 4/4": 0.31} and "shown is the newest run of w4a6-nano: seed=1" in said


def test_without_options_a_finished_run_is_shown_that_begins_as_they_would(store: Store) -> None:
    """As after a demo in two processes, whose batches are halved."""
    shutil.rmtree(next(store.root.glob("qat-*")))
    start = store.last("float")
    assert start is not None
    made = seal(store, "calibration", key=6, parents={"float": start.digest}, metrics=COST)
    assert "not finished" in shown(store)[1]
    compress(store, "qat.batch_size=4", nds=0.31, key=3, calibrated=made)
    compress(store, "quantization.plan=other", nds=0.38, key=4)
    scores_, said = shown(store)
    assert scores_ == {"float": 0.4, "QAT 4/4": 0.31}
    assert "shown is a finished run of w4a6-nano: qat.batch_size=4" in said and "not finished" not in said


def test_all_runs_of_a_name_stand_side_by_side(store: Store) -> None:
    compress(store, "seed=1", nds=0.31, key=3)
    assert "All runs of" not in report(store, "--set", "seed=1").stdout
    compress(store, "qat.steps_per_stage=0", nds=0.38, key=4)
    text = report(store, "--set", "seed=1").stdout.split("All runs of w4a6-nano\n")[1]
    lines = [re.split(r"  +", line)[:4] for line in text.splitlines()[3:6]]
    assert lines == [
        ["float", "W32A32", "0.400", "–"],
        ["QAT 4/4", "W4A6", "seed=1", "0.310"],
        ["PTQ 4/4", "W4A6", "qat.steps_per_stage=0", "0.380"],  # put on the grid without a step
    ]


def test_scores_say_on_what_they_stand(store: Store) -> None:
    assert "Scored on 4 samples of 2 scenes, split val of synthetic scenes, 20" in report(store).stdout


def test_few_scenes_give_no_interval_and_the_report_says_so(store: Store) -> None:
    text = report(store).stdout
    assert "No intervals: 2 scenes, and 5 are the fewest that give one." in text
    assert "Scores of 2 scenes show that it runs, not how well." in text


@pytest.mark.parametrize(("scenes", "sentences"), [(1, 1), (19, 1), (20, 0)])
def test_twenty_scenes_are_more_than_a_trial(scenes: int, sentences: int) -> None:
    assert len(few_scenes(scenes)) == sentences


def test_runs_that_were_scored_on_other_data_are_counted_and_not_shown_beside(store: Store) -> None:
    for key, words in enumerate((["seed=1"], ["seed=2"], ["seed=3", "data.val_scenes=9"]), start=3):
        compress(store, *words, nds=0.3 + key / 100, key=key, scored_on="e" if len(words) == 2 else "d")
    text = report(store, "--set", "seed=1").stdout.split("All runs of w4a6-nano\n")[1]
    assert [line.split()[4] for line in text.splitlines()[4:6]] == ["0.330", "0.340"]
    assert "1 more were scored on other data" in text


@pytest.mark.parametrize(("stage", "missing"), [(2, "stage 3/4, stage 4/4, distillation"), (4, "distillation")])
def test_an_unfinished_run_says_what_is_missing_and_a_stage_that_leaves_parts_in_float_is_labelled(
    store: Store, stage: int, missing: str
) -> None:
    shutil.rmtree(next(store.root.glob("qat-*")))
    start = store.last("float")
    assert start is not None
    parts = ["backbone", "neck", "encoder", "decoder"][:stage]
    trained = seal(
        store,
        "qat",
        key=7,
        parents={"start": start.digest},
        data={"parts": parts, "stage": stage, "stages": 4},
        metrics=COST,
        files={"curve.json": CURVE},
    )
    seal(store, "evaluation", key=8, parents={"model": trained.digest}, data=SCORED, metrics=scores(0.39))
    text = report(store).stdout
    assert f"this run is not finished: {missing} missing; `qdbev compress --profile w4a6 --model nano" in text
    assert ("partly W4A6" in text) is (stage < 4)


def test_the_page_says_data_day_command_and_what_is_kept_of_float(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["qdbev", "compress", "--seed", "1"])
    compress(store, "seed=1", nds=0.31, key=3)
    compress(store, "seed=2", nds=0.398, key=4)
    path = tmp_path / "report.html"
    assert report(store, "--out", path, "--set", "seed=1").exit_code == 0
    page = path.read_text(encoding="utf-8")
    top = page[: page.index("<section")]
    assert "4 samples of 2 scenes, split val of synthetic scenes, scored on 20" in top
    assert "Scores of 2 scenes show that it runs, not how well." in top
    assert "<span>NDS of float</span><b>77.5 %</b>" in top  # 0.31 / 0.4
    assert "<span>best run</span><b>99.5 %</b><span>QAT 4/4, W4A6, seed=2</span>" in top
    assert "<dt>command</dt><dd>qdbev compress --seed 1" in page


# -- what the terminal and a pipe get ------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["table", "html"])
def test_on_the_terminal_tables_come_first_and_what_was_made_last(store: Store, form: str) -> None:
    result = report(store, "--format", form)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "Accuracy"
    made = [unfinished(store), f"training curve: {store.root}/_report/curve.png"]
    made.append(f"report: {store.root}/_report/report.html")
    assert lines[-len(made) - 1 :] == ["", *made]
    assert all(Path(line.split(": ")[1]).is_file() for line in made[1:])


def test_markdown_on_stdout_is_the_document_alone(store: Store) -> None:
    result = report(store, "--format", "md")
    assert result.stdout.startswith("### Accuracy\n\n| model")
    assert "curve.png" not in result.stdout
    assert result.stderr.splitlines() == [
        unfinished(store),
        f"training curve: {store.root}/_report/curve.png",
        f"report: {store.root}/_report/report.html",
    ]


def test_csv_on_stdout_is_the_document_alone(store: Store) -> None:
    rows = list(csv.DictReader(io.StringIO(report(store, "--format", "csv").stdout)))
    assert list(dict.fromkeys(row["table"] for row in rows)) == ["accuracy", "size", "bops"]
    scored = [(row["name"], row["bits"], row["value"]) for row in rows if row["metric"] == "NDS"]
    assert scored == [("float", "W32A32", "0.4"), ("QAT 1/1", "W4A6", "0.39")]
    operations = {(row["name"], row["metric"]): float(row["value"]) for row in rows if row["table"] == "bops"}
    assert operations["float", "total"] == 4e9  # in BOPS, whatever the columns of the terminal show


def test_json_on_stdout_is_the_document_alone(store: Store) -> None:
    document = json.loads(report(store, "--format", "json").stdout)
    assert [table["name"] for table in document["tables"]] == ["accuracy", "size", "bops"]
    assert column(document["tables"][0], "NDS") == [0.4, 0.39]


def test_json_has_one_shape_and_one_unit(store: Store) -> None:
    document, outcome = (json.loads(report(store, *words).stdout) for words in (("--format", "json"), ("--json",)))
    assert document["tables"] == outcome["tables"]
    assert column(document["tables"][2], "total") == [4e9, 4e9]
    assert outcome["metrics"]["float"]["bops"] == {"backbone": 3e9, "neck": 1e9, "total": 4e9}
    assert outcome["metrics"]["float"]["nominal_bytes"] == column(document["tables"][1], "nominal_bytes")[0] == 2**22
    assert "GBOPS" not in json.dumps(document)


def column(table: dict[str, Any], name: str) -> list[Any]:
    return [row[table["headers"].index(name)] for row in table["rows"]]


@pytest.mark.parametrize("form", ["md", "csv"])
def test_a_document_and_the_outcome_do_not_share_stdout(store: Store, tmp_path: Path, form: str) -> None:
    refused = report(store, "--format", form, "--json")
    assert refused.exit_code == 2
    assert json.loads(refused.stdout)["error"] == f"--json and --format {form} both want stdout; add --out FILE"
    path = tmp_path / f"report.{form}"
    said = json.loads(report(store, "--json", "--out", path).stdout)["messages"]
    assert said[-1] == f"report: {path}" and path.is_file()


def test_a_chain_that_was_not_evaluated_yet_is_shown_without_scores_and_curve(store: Store) -> None:
    for folder in store.root.glob("evaluation-*"):
        shutil.rmtree(folder)
    result = report(store)
    assert (result.exit_code, result.stderr) == (0, "")
    assert files_under(store.root / "_report") == ["report.html"]


def test_the_result_as_json_has_neither_text_nor_document(store: Store) -> None:
    result = json.loads(report(store, "--json").stdout)
    assert not {"text", "document"} & set(result)
    assert result["messages"][:2] == [unfinished(store), f"training curve: {store.root}/_report/curve.png"]


# -- --out ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMATS)
def test_out_with_an_ending_is_the_one_file_with_its_parents(store: Store, tmp_path: Path, form: str) -> None:
    path = tmp_path / "new" / "folder" / "results.out"
    printed = report(store, "--format", form).stdout
    result = report(store, "--format", form, "--out", path)
    assert result.exit_code == 0, result.stderr
    assert files_under(tmp_path / "new") == ["folder/results.out"]
    text = path.read_text(encoding="utf-8")
    if form in ("md", "csv", "json"):
        assert text == printed
        assert (result.stdout, result.stderr) == ("", f"{unfinished(store)}\nreport: {path}\n")
    else:
        assert text.startswith("<!doctype html>" if form == "html" else "Accuracy\n")
        assert result.stdout.splitlines()[-1] == f"report: {path}"


def test_out_replaces_a_file_and_leaves_its_neighbours(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("results.md", "notes.md"):
        (folder / name).write_text("old")
    assert report(store, "--format", "md", "--out", folder / "results.md").exit_code == 0
    assert (folder / "results.md").read_text(encoding="utf-8").startswith("### Accuracy")
    assert (folder / "notes.md").read_text() == "old"
    assert files_under(folder) == ["notes.md", "results.md"]


@pytest.mark.parametrize(
    ("name", "start"),
    [("r.md", "### "), ("r.csv", "table,name"), ("r.json", "{"), ("r.HTML", "<!doc"), ("r.txt", "Accuracy")],
)
def test_without_a_format_the_ending_decides(store: Store, tmp_path: Path, name: str, start: str) -> None:
    assert report(store, "--out", tmp_path / name).exit_code == 0
    assert (tmp_path / name).read_text(encoding="utf-8").startswith(start)


@pytest.mark.parametrize(("form", "ending"), list(zip(FORMATS, ("txt", "md", "csv", "json", "html"), strict=True)))
def test_out_without_an_ending_is_a_folder(store: Store, tmp_path: Path, form: str, ending: str) -> None:
    folder = tmp_path / "new" / "results"
    result = report(store, "--format", form, "--out", folder)
    assert result.exit_code == 0, result.stderr
    assert files_under(folder) == ["curve.png", f"report.{ending}"]
    assert (result.stdout == "") is (form in ("md", "csv", "json"))


def test_a_folder_that_is_there_may_have_a_dot_in_its_name(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "tmp.Xy12"
    folder.mkdir()
    assert report(store, "--format", "md", "--out", folder).exit_code == 0
    assert files_under(folder) == ["curve.png", "report.md"]


def refuse(store: Store, out: Path) -> str:
    """The one sentence with which ``out`` is refused."""
    before = files_under(store.root.parent)
    result = report(store, "--format", "md", "--out", out)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert files_under(store.root.parent) == before
    [sentence] = result.stderr.splitlines()
    assert sentence.startswith(f"qdbev: --out is {out}, " if len(str(out)) < 200 else "qdbev: --out is /")
    return str(sentence)


def test_a_file_without_an_ending_is_no_folder(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "results"
    path.write_text("mine")
    assert "is a file, but a name without an ending is taken for a folder; give results.md or" in refuse(store, path)
    assert path.read_text() == "mine"


def test_a_folder_called_like_a_report_is_no_file(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "results.md"
    path.mkdir()
    assert "is a folder, but a name ending in .md is taken for a file; give" in refuse(store, path)


@pytest.mark.parametrize("name", ["results", "results.md", "deeper/results.md"])
def test_a_file_has_nothing_below_it(store: Store, tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert f"but {tmp_path}/notes.txt is a file, not a folder; give" in refuse(store, tmp_path / "notes.txt" / name)


@pytest.mark.parametrize("name", ["results.md", "results"])
def test_a_place_that_cannot_be_written_is_named(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    fail_to_write(monkeypatch, errno.EACCES)
    assert "cannot be written: Permission denied; give another" in refuse(store, tmp_path / name)


def test_a_name_too_long_for_the_system_is_refused(store: Store, tmp_path: Path) -> None:
    assert "cannot be written: File name too long" in refuse(store, tmp_path / ("x" * 300 + ".md"))


def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "results.md").write_text("old")
    fail_to_write(monkeypatch, errno.ENOSPC)
    result = report(store, "--format", "md", "--out", folder / "results.md")
    assert result.exit_code == 3
    assert "No space left on device" in result.stderr
    assert (folder / "results.md").read_text() == "old"
    assert files_under(folder) == ["results.md"]


def test_a_store_that_cannot_be_written_exits_3(store: Store) -> None:
    (store.root / "_report").write_text("in the way")
    result = report(store)
    assert result.exit_code == 3
    [sentence] = result.stderr.splitlines()
    assert sentence.startswith(f"qdbev: {store.root}/_report cannot be written: ")


def test_a_dry_run_says_what_it_would_write_and_refuses_a_bad_out(store: Store, tmp_path: Path) -> None:
    result = report(store, "--dry-run", "--out", tmp_path / "new" / "results.md")
    assert f"write {tmp_path}/new/results.md" in result.stdout
    assert not (tmp_path / "new").exists()
    (tmp_path / "taken").write_text("mine")
    assert report(store, "--dry-run", "--out", tmp_path / "taken").exit_code == 2


def fail_to_write(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def fail(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)


# -- which sensitivity ---------------------------------------------------------------------------------------------


def titles(store: Store) -> list[str]:
    return [table["title"] for table in json.loads(report(store, "--format", "json").stdout)["tables"]]


def test_the_sensitivity_says_its_bits_and_level(store: Store) -> None:
    measure(store, bits="w4a6", level="part", key=1, worst=0.3)
    assert titles(store)[-1] == "Sensitivity, W4A6, each part alone"
    measure(store, bits="w4a6", level="module", key=2, worst=0.2)
    assert titles(store)[-1] == "Sensitivity, W4A6, each module alone"


def test_the_sensitivity_of_the_chains_bits_goes_before_newer_ones(store: Store) -> None:
    measure(store, bits="w4a6", level="part", key=1, worst=0.3)
    measure(store, bits="w4a4", level="module", key=2, worst=0.1)
    table = json.loads(report(store, "--format", "json").stdout)["tables"][-1]
    assert table["title"] == "Sensitivity, W4A6, each part alone"
    assert column(table, "NDS") == [0.4, 0.3]


def test_the_sensitivity_of_other_bits_is_titled_as_what_it_is(store: Store) -> None:
    measure(store, bits="w8a8", level="part", key=1, worst=0.3)
    measure(store, bits="w4a4", level="part", key=2, worst=0.1)
    assert titles(store)[-1] == "Sensitivity, W4A4, each part alone"


def test_csv_which_has_no_titles_states_bits_and_level_in_its_rows(store: Store) -> None:
    measure(store, bits="w4a4", level="part", key=2, worst=0.1)
    rows = csv.DictReader(io.StringIO(report(store, "--format", "csv").stdout))
    measured = [row for row in rows if (row["table"], row["metric"]) == ("sensitivity", "NDS")]
    assert [(row["name"], row["bits"], row["level"]) for row in measured] == [
        ("float", "W32A32", "part"),
        ("neck", "W4A4", "part"),
    ]


def test_the_page_has_table_and_chart_of_the_same_sensitivity_under_one_heading(store: Store, tmp_path: Path) -> None:
    measure(store, bits="w4a6", level="part", key=1, worst=0.3)
    measure(store, bits="w4a4", level="part", key=2, worst=0.1)
    path = tmp_path / "report.html"
    assert report(store, "--out", path).exit_code == 0
    page = path.read_text(encoding="utf-8")
    assert "<h2>Sensitivity, W4A6, each part alone</h2>" in page
    drawing = page[page.index('<section id="sensitivity"') :].split("<svg")[1]
    assert ">0.100<" in drawing and ">0.300<" not in drawing  # what the neck loses at 6 bits, and at 4
    names = re.findall(r'<section id="([^"]+)"', page)
    assert names == ["accuracy", "curve", "size", "bops", "sensitivity", "provenance"]


def test_a_sensitivity_of_other_scenes_is_marked_and_one_of_the_same_scenes_goes_before_it(store: Store) -> None:
    measure(store, bits="w4a6", level="part", key=1, worst=0.3, scenes=4, val="e")
    text = report(store).stdout
    assert "Sensitivity, W4A6, each part alone, on other scenes" in text
    assert "Scored on 4 scenes, split val of synthetic scenes, 20" in text
    assert "other scenes than those of the accuracy above" in text
    measure(store, bits="w4a6", level="module", key=2, worst=0.2)
    measure(store, bits="w4a6", level="part", key=3, worst=0.1, val="f")
    assert titles(store)[-1] == "Sensitivity, W4A6, each module alone"


# -- sealed artifacts are read whole and never written ---------------------------------------------------------------


@pytest.mark.parametrize("kind", ["float", "qat", "evaluation"])
@pytest.mark.parametrize("file", ["manifest.json", "model.safetensors", "added.json"])
def test_a_damaged_artifact_under_a_report_is_refused_by_name(store: Store, kind: str, file: str) -> None:
    damaged = next(folder for folder in store.folders() if folder.name.startswith(f"{kind}-")) / file
    damaged.write_bytes(damaged.read_bytes()[:-1] if damaged.exists() else b"{}")
    result = report(store)
    assert (result.exit_code, result.stdout) == (3, "")
    assert damaged.parent.name in result.stderr and damaged.name in result.stderr


@pytest.mark.parametrize("place", ["manifest.json", "report.md", "further/report.md", "folder", ""])
@pytest.mark.parametrize("way", ["", "link", "other store"])
def test_a_report_is_never_written_into_an_artifact(store: Store, tmp_path: Path, place: str, way: str) -> None:
    artifact = store.list()[0].path
    if way == "link":
        (tmp_path / "link").symlink_to(artifact)
        artifact = tmp_path / "link"
    elif way:
        shutil.copytree(artifact, tmp_path / "elsewhere" / artifact.name)
        artifact = tmp_path / "elsewhere" / artifact.name
    before = files_under(tmp_path)
    result = report(store, "--format", "md", "--out", artifact / place)
    assert result.exit_code == 2
    assert "which lies in the artifact" in result.stderr
    assert files_under(tmp_path) == before
