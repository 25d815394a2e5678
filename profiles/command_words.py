"""The words of the shell that say a profile again: for sentences that name the next command."""

from __future__ import annotations

import shlex

from profiles.loading import builtin_profiles
from profiles.profile import Profile


def command_words(profile: Profile) -> str:
    """Options that give a profile as it was loaded, ready for a shell.

    Of a profile from a file the name of the file is told, without its folder, which is not recorded.

    >>> from profiles.loading import load
    >>> command_words(load("w4a6", model="tiny", recipes=["lsq"], overrides=["data.source=/my data"], seed=3))
    "--profile w4a6 --model tiny --recipe lsq --set 'data.source=/my data' --set seed=3"
    """
    stated = [word.partition("=") for word in profile.overrides]
    models = [value for name, _, value in stated if name == "model"] or [profile.model.name]
    recipes = [value for name, _, value in stated if name == "recipe"]
    others = [name + sign + value for name, sign, value in stated if name not in ("model", "recipe")]
    pairs = [("--profile", _file(profile.name, recipes=recipes)), ("--model", models[-1])]
    pairs += [("--recipe", recipe) for recipe in recipes] + [("--set", word) for word in others]
    return " ".join(f"{option} {shlex.quote(value)}" for option, value in pairs)


def _file(name: str, *, recipes: list[str]) -> str:
    """The built-in profile, or the file, that a profile of this name came from."""
    for recipe in reversed(recipes):
        name = name.removesuffix(f"-{recipe.rsplit('/', 1)[-1].removesuffix('.yaml')}")
    return name if name in builtin_profiles() else f"{name}.yaml"
