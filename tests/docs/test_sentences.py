"""Sentences of the README and of the pages to read first have 25 words at most."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
START = (
    "README.md",
    "CONTRIBUTING.md",
    *(f"docs/{name}.md" for name in ("index", "your-own-data", "compress", "report")),
)
START += ("docs/glossary.md", "docs/python-api.md")
MOST = 25


def sentences(markdown: str) -> Iterator[str]:
    """The sentences of a page: of paragraphs, items and cells; code blocks left out, a piece of code is a word."""
    text = re.sub(r"```.*?```|<!--.*?-->|!\[[^\]]*\]\([^)]*\)", "\n\n", markdown, flags=re.DOTALL)
    text = re.sub(r"`[^`]*`", "code", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text))
    for block in re.split(r"\n\s*\n|\n(?=\s*(?:[-*#|]|\d+\. ))", text):
        for piece in block.split("|"):
            yield from re.split(r"(?<=[.!?])\s+(?=[A-Z(\"0-9]|code)", " ".join(piece.split()))


def words(sentence: str) -> int:
    return len(re.findall(r"[A-Za-z0-9][\w'’./%-]*", sentence))


def test_words_and_sentences_are_counted_as_a_reader_does() -> None:
    text = "# Head\n\nOne two `three four`. Five [six seven](x.md).\n- eight\n- nine, ten\n\n"
    text += "| a b | c |\n|---|---|\n```\nno\n```\n"
    counts = [(words(one), one) for one in sentences(text) if words(one)]
    assert [count for count, _ in counts] == [1, 3, 3, 1, 2, 2, 1]


@pytest.mark.parametrize("page", START)
def test_no_sentence_is_long(page: str) -> None:
    long = [one for one in sentences((ROOT / page).read_text(encoding="utf-8")) if words(one) > MOST]
    assert not long, f"{page} has sentences of more than {MOST} words: {long}"


@pytest.mark.parametrize("claim", ["fast enough", "as well as float", "as good as float", "real time", "real-time"])
def test_nothing_is_claimed_that_was_not_measured(claim: str) -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    assert not [page.name for page in pages if claim in page.read_text(encoding="utf-8").lower()]
