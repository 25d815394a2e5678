"""A manifest has one spelling; its digest knows no time; any changed byte is noticed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiles.manifest import Manifest, Record, SealedFile

MANIFEST = Manifest(
    kind="qat",
    name="w4a6-nano",
    key="ab" * 32,
    profile={"name": "w4a6", "seed": 1},
    parents={"float": "cd" * 32},
    files={"weights.safetensors": SealedFile(sha256="ef" * 32, bytes=12)},
    metrics={"val": {"nds": 0.412, "mAVE": None}},
    record=Record(created="2026-01-01T00:00:00+00:00", seconds={"train": 1.5}),
)
SPELLED = MANIFEST.to_bytes()


def test_reads_back() -> None:
    assert Manifest.from_bytes(SPELLED) == MANIFEST


def test_the_digest_knows_no_time() -> None:
    later = MANIFEST.model_copy(update={"record": Record(created="2027-01-01T00:00:00+00:00", command=["qdbev"])})
    assert later.digest == MANIFEST.digest
    assert later.to_bytes() != SPELLED


@pytest.mark.parametrize("name", sorted(set(Manifest.model_fields) - {"record"}))
def test_every_other_field_enters_the_digest(name: str) -> None:
    assert MANIFEST.model_copy(update={name: None}).digest != MANIFEST.digest


@given(st.integers(0, len(SPELLED) - 1), st.integers(1, 255))
def test_any_changed_byte_is_noticed(place: int, flip: int) -> None:
    changed = bytearray(SPELLED)
    changed[place] ^= flip
    with pytest.raises(ValueError):
        Manifest.from_bytes(bytes(changed))


@given(st.integers(0, len(SPELLED) - 1))
def test_a_cut_manifest_is_noticed(length: int) -> None:
    with pytest.raises(ValueError):
        Manifest.from_bytes(SPELLED[:length])


def test_a_newer_schema_says_so() -> None:
    content = json.loads(SPELLED) | {"schema_version": 2}
    with pytest.raises(ValueError, match="schema version 2; this qdbev reads up to 1"):
        Manifest.from_bytes(json.dumps(content).encode())
