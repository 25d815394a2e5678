"""What the shell offers behind a started word: profiles, models, recipes, fields with their values, artifacts.

``qdbev --install-completion`` puts it into the shell's start-up file. No torch is loaded for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args, get_origin

import typer

Offer = tuple[str, str]
"""A word and what it means."""


def profile_names(incomplete: str) -> list[Offer]:
    """The shipped profiles."""
    import profiles

    return _shipped(profiles.builtin_profiles(), start=incomplete)


def model_names(incomplete: str) -> list[Offer]:
    """The shipped models."""
    import profiles

    return _shipped(profiles.builtin_models(), start=incomplete)


def recipe_names(incomplete: str) -> list[Offer]:
    """The shipped recipes."""
    import profiles

    return _shipped(profiles.builtin_recipes(), start=incomplete)


def shown_names(incomplete: str) -> list[Offer]:
    """All that ``profiles show`` takes."""
    return [*profile_names(incomplete), *model_names(incomplete), *recipe_names(incomplete)]


def fields(incomplete: str) -> list[Offer]:
    """Fields of the profile with ``=`` at their end; behind it the values, where there are only so many."""
    if "=" in incomplete:
        return list(_values(incomplete))
    return [offer for offer in dict(_fields()).items() if offer[0].startswith(incomplete)]


def artifacts(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of the folders in the store that the words before name."""
    from pipelines.store.artifacts import Store

    with contextlib.suppress(OSError, ValueError):
        names = [folder.name for folder in Store(ctx.params.get("store") or "runs").folders()]
        return [name for name in names if name.startswith(incomplete)]
    return []


def _shipped(known: dict[str, Path], *, start: str) -> list[Offer]:
    from profiles.description import headline

    return [(name, headline(path)) for name, path in known.items() if name.startswith(start)]


def _fields() -> Iterator[Offer]:
    from profiles.choices import field_paths
    from profiles.profile import Profile

    for path, field in field_paths(Profile):
        yield f"{path}=", " ".join((field.description or "").split())


def _values(incomplete: str) -> Iterator[Offer]:
    from profiles.choices import field_paths
    from profiles.profile import Profile

    path, _, start = incomplete.partition("=")
    for name, field in field_paths(Profile):
        if name == path:
            words = _words(field.annotation)
            yield from ((f"{path}={word}", "") for word in words if word.startswith(start))


def _words(annotation: object) -> list[str]:
    """The values of a type that has only so many."""
    if annotation is bool:
        return ["true", "false"]
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    return [word for part in get_args(annotation) for word in _words(part)]
