"""Tokens and generators depend on their names alone."""

from __future__ import annotations

import hashlib

from qdbev.data.synthetic.tokens import generator, token


def test_token_is_the_start_of_a_sha256() -> None:
    assert token(1, "scene-0001", "sample", 0) == hashlib.sha256(b"1/scene-0001/sample/0").hexdigest()[:32]


def test_generators_of_different_names_differ() -> None:
    assert generator(0, "a").random() != generator(0, "b").random()
    assert generator(0, "a").random() != generator(1, "a").random()
