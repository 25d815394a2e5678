"""YAML as plain data, without surprises: nothing in it can run, repeat a key, or grow beyond what was written."""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Hashable
from functools import lru_cache
from typing import Any

import yaml

from profiles.document import ProfileError
from profiles.wording import quoted

DEEPEST = 40
"""Levels of lists and mappings in each other; a profile has five."""
MOST_VALUES = 20_000
"""Values that a text may stand for, each alias counted as often as it is used."""
LONGEST = 2**18
"""Characters."""


class ProfileReader(yaml.SafeLoader):
    """YAML in which ``1e-4`` is a number, and a key that stands twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Read a mapping, refusing repeated keys and those that merge another mapping."""
        if any(key.tag == _MERGE for key, _ in node.value):
            line = node.start_mark.line + 1
            raise ProfileError(f"<< merges a mapping, which is not taken; repeat its fields (line {line})")
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]  # type: ignore[no-untyped-call]
        counts = Counter(key for key in keys if isinstance(key, Hashable))
        twice = sorted(str(key) for key, count in counts.items() if count > 1)
        if twice:
            names = quoted(", ".join(twice)).strip("'")
            raise ProfileError(f"{names} stands twice in one section (line {node.start_mark.line + 1})")
        return super().construct_mapping(node, deep=deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Read a whole number, refusing one that no machine counts to, and one that means another in YAML.

        Writing out the first would take for ever. The others are ``010``, which is 8, and ``1:30``, which is 90.
        """
        value: int = super().construct_yaml_int(node)
        self._refuse_other_bases(node, value=value)
        if value.bit_length() > 63:
            raise ProfileError(f"a whole number beyond 2^63 (line {node.start_mark.line + 1})")
        return value

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        """Read a number, refusing minutes and seconds: ``1:30.5`` is 90.5."""
        value: float = super().construct_yaml_float(node)
        self._refuse_other_bases(node, value=value)
        return value

    @staticmethod
    def _refuse_other_bases(node: yaml.ScalarNode, *, value: float) -> None:
        digits = node.value.lstrip("+-").replace("_", "")
        if ":" in digits or (digits.isdecimal() and int(digits) != abs(value)):
            line = node.start_mark.line + 1
            raise ProfileError(
                f"YAML reads {quoted(node.value)} as {quoted(value)}; write the number meant (line {line})"
            )


_MERGE = "tag:yaml.org,2002:merge"
ProfileReader.add_constructor("tag:yaml.org,2002:int", ProfileReader.construct_yaml_int)
ProfileReader.add_constructor("tag:yaml.org,2002:float", ProfileReader.construct_yaml_float)
ProfileReader.add_implicit_resolver(  # YAML 1.1 wants a dot and a signed exponent in a float; people write 1e-4
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_yaml(text: str, *, origin: str) -> Any:
    """The content of YAML text.

    Raises:
        ProfileError: If it is not YAML, or stands for more than any profile says; the sentence names ``origin`` and the
            line.
    """
    if len(text) > LONGEST:
        raise ProfileError(f"{origin} has {len(text)} characters; a profile has at most {LONGEST}")
    try:
        return copy.deepcopy(_parsed(text))
    except ProfileError as error:
        raise ProfileError(f"{origin}: {error}") from None
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ProfileError(f"{origin}{line} is not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ProfileError(f"{origin} is not YAML: {' '.join(str(error).split())}") from None
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:  # of a tag's constructor
        reason = str(error) if isinstance(error, ValueError) else "it is not what its tag says"
        raise ProfileError(f"{origin} holds a value that cannot be read: {reason}") from None


@lru_cache(maxsize=256)
def _parsed(text: str) -> Any:
    """What a text stands for; shipped files are read for every profile, and a copy is far quicker than a parse."""
    _refuse_what_grows(text)
    return yaml.load(text, Loader=ProfileReader)  # a SafeLoader


def _refuse_what_grows(text: str) -> None:
    """Count levels and values while they are read, before anything is built of them."""
    tally = _Tally()
    for event in yaml.parse(text, Loader=ProfileReader):  # type: ignore[no-untyped-call]
        tally.count(event)
        if tally.problem:
            raise ProfileError(f"{tally.problem} (line {event.start_mark.line + 1})")


class _Tally:
    """How many values a text stands for, by the events of reading it."""

    def __init__(self) -> None:
        self.problem = ""
        """Why it is refused; empty while it is not."""
        self._sizes: dict[str, int] = {}  # of what has an anchor
        self._open: list[tuple[str | None, int]] = [(None, 0)]  # anchor, and size so far

    def count(self, event: yaml.Event) -> None:
        """Take in the next event."""
        if isinstance(event, yaml.CollectionStartEvent):
            self._open.append((event.anchor, 1))
            if len(self._open) > DEEPEST + 1:
                self.problem = f"more than {DEEPEST} levels in each other"
        elif isinstance(event, yaml.CollectionEndEvent):
            self._close(*self._open.pop())
        elif isinstance(event, yaml.ScalarEvent):
            self._close(event.anchor, 1)
        elif isinstance(event, yaml.AliasEvent):
            self._close(None, self._sizes.get(event.anchor, 1))
            if event.anchor in [anchor for anchor, _ in self._open]:
                self.problem = f"alias {quoted(event.anchor)} stands inside of what it names"

    def _close(self, anchor: str | None, size: int) -> None:
        if anchor is not None:
            self._sizes[anchor] = size
        around, total = self._open.pop()
        self._open.append((around, total + size))
        if total + size > MOST_VALUES:
            self.problem = f"it stands for more than {MOST_VALUES} values, aliases counted"
