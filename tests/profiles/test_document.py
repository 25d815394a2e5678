"""Documents are frozen and strict; every field that decides a result enters the digest, no other does."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, ClassVar, Literal, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ByteSize, ValidationError

import profiles
from profiles.choices import kinds
from profiles.document import Document, fingerprint
from profiles.profile import Profile
from profiles.sections.data import DataProfile
from profiles.sections.quantization import QuantizationProfile

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def leaves(document: Document, prefix: str = "") -> Iterator[tuple[str, Any, Any, bool]]:
    """Dotted name, value, annotation and whether it is outside the digest, for every field."""
    for name, field in type(document).model_fields.items():
        value = getattr(document, name)
        if isinstance(value, Document):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, field.annotation, name in document.outside_digest


def another(value: Any, annotation: Any) -> Any:
    """A value of the same type that is not ``value``."""
    parts = (annotation,) if get_origin(annotation) in (Literal, tuple) else (get_args(annotation) or (annotation,))
    for part in parts:
        if get_origin(part) is Literal and len(get_args(part)) > 1:
            return next(option for option in get_args(part) if option != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if value is None:
        return next(
            example
            for example in ("text", 0.5, 1, ByteSize(1), (1.0, 2.0))
            if type(example) in (*parts, *map(get_origin, parts))
        )
    if isinstance(value, tuple):
        return tuple(another(one, type(one)) for one in value) or ("text",)
    return 0.5 if float in parts else f"{value}2"


def altered(document: Document, path: list[str], value: Any) -> Document:
    """A copy with one field changed, unchecked."""
    head, *rest = path
    inner = altered(getattr(document, head), rest, value) if rest else value
    return document.model_copy(update={head: inner})


PROFILE = profiles.load("w4a6")


@pytest.mark.parametrize("path", [path for path, *_ in leaves(PROFILE)])
def test_every_field_enters_the_digest_unless_it_changes_no_result(path: str) -> None:
    value, annotation, outside = next(rest for name, *rest in leaves(PROFILE) if name == path)
    changed = altered(PROFILE, path.split("."), another(value, annotation))
    assert isinstance(changed, Profile)
    assert (fingerprint(changed.content()) == fingerprint(PROFILE.content())) is outside
    if outside:
        assert changed.circumstances() != PROFILE.circumstances()


def test_fields_outside_the_digest_are_these() -> None:
    outside = {path.rpartition(".")[2] for path, _, _, is_outside in leaves(PROFILE) if is_outside}
    assert outside == {"cache", "workers", "save_every", "streams", "device", "log_with", "overrides", "latency_table"}


def test_a_document_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        PROFILE.quantization.weight_bits = 8  # type: ignore[misc]


def test_a_document_refuses_unknown_fields() -> None:
    with pytest.raises(ValidationError, match="extra"):
        QuantizationProfile(weight_bit=4)  # type: ignore[call-arg]


def test_every_field_has_a_docstring() -> None:
    def undocumented(kind: type[BaseModel]) -> Iterator[str]:
        for name, field in kind.model_fields.items():
            if not field.description or not field.description.endswith((".", ",", "...")):
                yield f"{kind.__name__}.{name}"
            for inner in kinds(field).values():
                yield from undocumented(inner)

    assert [*undocumented(Profile)] == []


def test_fingerprint_is_the_sha256_of_canonical_json() -> None:
    expected = hashlib.sha256('{"a":[1,2.5,null],"b":"ü"}'.encode()).hexdigest()
    assert fingerprint({"b": "ü", "a": (1, 2.5, None)}) == expected


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_fingerprint_does_not_depend_on_key_order(content: dict[str, Any]) -> None:
    assert fingerprint(dict(reversed(content.items()))) == fingerprint(content)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_fingerprint_refuses_what_json_cannot_write(number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        fingerprint({"x": number})


def test_content_and_circumstances_share_all_fields() -> None:
    data = DataProfile(cache="/tmp/x", workers=2)
    assert data.circumstances() == {"cache": "/tmp/x", "workers": 2}
    assert {*data.content(), *data.circumstances()} == {*DataProfile.model_fields} - DataProfile.later


class Grown(Document):
    later: ClassVar[frozenset[str]] = frozenset({"added"})

    old: int = 1
    added: str | None = None


def test_a_field_that_came_later_leaves_the_digest_alone_until_it_is_used() -> None:
    assert Grown().content() == {"old": 1}
    assert Grown(added="text").content() == {"old": 1, "added": "text"}
    assert Grown.model_validate(Grown().content()) == Grown()
