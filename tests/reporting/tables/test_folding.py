"""Tables on narrow terminals: exact texts, and no line wider than the terminal wherever words allow it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qdbev.reporting.tables.folding import broken, groups
from qdbev.reporting.tables.table import plain_table, render

SCORES = plain_table(
    "scores", title="Scores", headers=["name", "NDS", "mAP"], rows=[["float", 0.56, 0.476], ["PTQ", 0.551, 0.47]]
)
STAGES = plain_table("stages", title="", headers=["kind", "stage"], rows=[["qat", "QAT 1/4 (+neck)"], ["qat", "PTQ"]])


def test_columns_that_do_not_fit_stand_below_with_the_first_one_again():
    assert render(SCORES, width=14) == (
        "Scores\n"
        "\n"
        "name       NDS\n"
        "------  ------\n"
        "float   0.5600\n"
        "PTQ     0.5510\n"
        "\n"
        "name       mAP\n"
        "------  ------\n"
        "float   0.4760\n"
        "PTQ     0.4700\n"
    )


def test_texts_are_broken_between_words_first():
    assert render(STAGES, width=15) == (
        "kind    stage\n"
        "------  -------\n"
        "qat     QAT 1/4\n"
        "        (+neck)\n"
        "qat     PTQ\n"
    )  # fmt: skip


@pytest.mark.parametrize("form", ["text", "md", "csv", "json"])
def test_wide_terminals_and_other_forms_change_nothing(form):
    assert render(SCORES, form=form, width=40) == render(SCORES, form=form)
    if form != "text":
        assert render(SCORES, form=form, width=14) == render(SCORES, form=form)


WORDS = st.lists(st.text("abc", min_size=1, max_size=6), min_size=1, max_size=4).map(" ".join)


@given(st.integers(1, 6), st.data())
def test_no_line_is_wider_than_the_terminal_and_no_word_is_lost(columns, data):
    lines = data.draw(st.lists(st.lists(WORDS, min_size=columns, max_size=columns), min_size=1, max_size=3))
    texts = data.draw(st.lists(st.booleans(), min_size=columns, max_size=columns))
    width = 2 * (27 + 2) + 2  # two columns of the widest cells and heads
    folded = broken(lines, texts=texts, width=width)
    places = groups(folded, width=width)
    assert [[cell.split() for cell in line] for line in folded] == [[cell.split() for cell in line] for line in lines]
    assert sorted({place for group in places for place in group}) == list(range(columns))
    table = plain_table("t", title="", headers=lines[0], rows=lines[1:], keys=[str(place) for place in range(columns)])
    assert max(map(len, render(table, width=width).splitlines())) <= width
