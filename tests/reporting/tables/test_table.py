"""The four forms of a table: exact texts, and CSV and JSON read back to the numbers that went in."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdbev.reporting.tables.rounding import score_text
from qdbev.reporting.tables.table import Table, name_column, number_column, plain_table, render, render_all

ROWS = ({"name": "float", "NDS": 0.35449}, {"name": "a|b", "NDS": float("nan"), "extra": 7})
COLUMNS = (name_column("name", head="model"), number_column("NDS", head="NDS", rule=score_text))
TABLE = Table("accuracy", "Accuracy", COLUMNS, ROWS, notes=("A note.",))


def test_text_form():
    assert render(TABLE) == ("Accuracy\n\nmodel      NDS\n-------  -----\nfloat    0.354\na|b          –\n\nA note.\n")


def test_markdown_form_escapes_bars():
    assert render(TABLE, form="md") == (
        "### Accuracy\n"
        "\n"
        "| model   |   NDS |\n"
        "|:--------|------:|\n"
        "| float   | 0.354 |\n"
        "| a\\|b    |     – |\n"
        "\n"
        "A note.\n"
    )


def test_csv_has_a_line_for_each_number_unrounded_behind_the_words_of_its_row():
    assert render(TABLE, form="csv") == "table,name,metric,value\naccuracy,float,NDS,0.35449\naccuracy,a|b,extra,7\n"


def test_json_form_holds_null_for_nan():
    [document] = json.loads(render(TABLE, form="json"))["tables"]
    assert document == {
        "name": "accuracy",
        "title": "Accuracy",
        "headers": ["name", "NDS", "extra"],
        "rows": [["float", 0.35449, None], ["a|b", None, 7]],
        "notes": ["A note."],
    }


def test_an_unknown_form_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'xml'.*text, md, csv, json"):
        render(TABLE, form="xml")


def test_a_plain_table_shows_values_as_they_come_and_sets_columns_of_numbers_to_the_right():
    rows = [["neck", 3, 0.41234, None], ["all", None, 123.456, "?"]]
    table = plain_table("parts", title="", headers=["part", "layers", "loss", ""], rows=rows, notes=["A note."])
    assert render(table).splitlines() == [
        "part      layers    loss",
        "------  --------  ------  --",
        "neck           3  0.4123  –",
        "all            –   123.5  ?",
        "",
        "A note.",
    ]
    assert table.rows[1] == {"part": "all", "layers": None, "loss": 123.456, "": "?"}


def test_columns_of_a_plain_table_may_have_other_names_than_heads():
    table = plain_table("facts", title="Facts", headers=["", ""], keys=["name", "value"], rows=[["seed", 0]])
    assert table.rows == ({"name": "seed", "value": 0},)
    assert [column.head for column in table.columns] == ["", ""]
    with pytest.raises(ValueError, match="argument"):
        plain_table("facts", title="Facts", headers=["a"], rows=[["seed", 0]])


@pytest.mark.parametrize("form", ["text", "md"])
def test_a_table_without_rows_shows_its_heads(form):
    text = render(Table("empty", "Empty", COLUMNS, ()), form=form)
    assert "model" in text
    assert "NDS" in text


def test_digits_in_names_are_left_alone():
    """tabulate would turn names such as "0010" or "1e3" into numbers if it were let."""
    rows = ({"name": "0010", "NDS": 0.5}, {"name": "1e3", "NDS": 0.25})
    text = render(Table("t", "T", COLUMNS, rows))
    assert "0010 " in text
    assert "1e3 " in text


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5), st.text(max_size=8))
def test_csv_reads_back_to_the_same_numbers_and_names(values, name):
    name = name.replace("\r", "").replace("\x00", "")
    rows = tuple({"name": name, "NDS": value} for value in values)
    text = render(Table("t", "T", COLUMNS, rows), form="csv")
    read = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [(row["metric"], float(row["value"])) for row in read] == [("NDS", value) for value in values]
    assert [row["name"] for row in read] == [name] * len(values)


def test_several_tables_as_one_document():
    second = Table("size", "Size", COLUMNS, ({"name": "x", "NDS": 1.0},))
    assert [table["name"] for table in json.loads(render_all([TABLE, second], form="json"))["tables"]] == [
        "accuracy",
        "size",
    ]
    assert render_all([TABLE, second], form="csv") == (
        "table,name,metric,value\naccuracy,float,NDS,0.35449\naccuracy,a|b,extra,7\nsize,x,NDS,1.0\n"
    )
    assert render_all([TABLE, second]) == render(TABLE) + "\n" + render(second)


def test_pandas_reads_tables_with_other_columns_from_one_csv():
    pandas = pytest.importorskip("pandas")
    second = Table("bops", "Bit operations", COLUMNS, ({"name": "x", "bits": "W4A6", "total": 2.5e10},))
    read = pandas.read_csv(io.StringIO(render_all([TABLE, second], form="csv")))
    assert read["value"].dtype == "float64"
    assert read.set_index(["table", "name", "metric"])["value"].to_dict() == {
        ("accuracy", "float", "NDS"): 0.35449,
        ("accuracy", "a|b", "extra"): 7.0,
        ("bops", "x", "total"): 2.5e10,
    }


def test_the_unit_that_is_shown_stands_below_the_columns_and_not_beside_plain_values():
    table = Table("bops", "Bit operations", COLUMNS, ROWS, notes=("A note.",), shown_in="In TBOPS.")
    assert render(table).endswith("\nIn TBOPS.\nA note.\n")
    assert "TBOPS" not in render(table, form="json")
