"""Options that commands share, as frozen dataclasses whose fields become the options of a command."""

from __future__ import annotations

import dataclasses
import enum
import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from qdbev_cli.console import Result, guarded

if TYPE_CHECKING:
    from pipelines.store.artifacts import Store
    from profiles import Profile

_WHAT, _HOW = "What", "Where and how"


@dataclass(frozen=True)
class OutputOptions:
    """Of every command."""

    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document; all else goes to stderr.", rich_help_panel=_HOW)
    ] = False


@dataclass(frozen=True)
class StoreOptions(OutputOptions):
    """Of commands that look into the store."""

    store: Annotated[
        Path, typer.Option("--store", envvar="QDBEV_STORE", help="Folder of artifacts.", rich_help_panel=_HOW)
    ] = Path("runs")

    def open_store(self) -> Store:
        """The store; it need not exist yet."""
        from pipelines.store.artifacts import Store

        return Store(self.store)


@dataclass(frozen=True)
class ProfileOptions(OutputOptions):
    """Of commands that change a profile on the way."""

    model: Annotated[
        str | None,
        typer.Option(
            "--model", help="nano, tiny, small, base or a YAML file.", show_default=False, rich_help_panel=_WHAT
        ),
    ] = None
    recipes: Annotated[
        list[str] | None,
        typer.Option("--recipe", help="A method over the profile; repeatable.", rich_help_panel=_WHAT),
    ] = None
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SECTION.FIELD=VALUE",
            help="Change one field of the profile; repeatable.",
            rich_help_panel=_WHAT,
        ),
    ] = None
    seed: Annotated[
        int | None, typer.Option("--seed", help="Seed, in place of the profile's.", rich_help_panel=_WHAT)
    ] = None
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:N.", rich_help_panel=_HOW)] = (
        None
    )

    def load(self, name: str, *words: str | None) -> Profile:
        """The profile called ``name``, with these options and the overrides in ``words`` (None is skipped)."""
        import profiles

        changes = [*(self.overrides or []), *(word for word in words if word is not None)]
        recipes = self.recipes or ()
        return profiles.load(
            name, model=self.model, recipes=recipes, overrides=changes, seed=self.seed, device=self.device
        )


class Launcher(enum.StrEnum):
    """What can start several processes of one command."""

    torchrun = "torchrun"
    slurm = "slurm"


@dataclass(frozen=True)
class RunOptions(StoreOptions, ProfileOptions):
    """Of every command that makes something."""

    profile: Annotated[
        str, typer.Option("--profile", help="A built-in profile or a YAML file.", rich_help_panel=_WHAT)
    ] = "w4a6"
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, do nothing.", rich_help_panel=_HOW)
    ] = False
    force: Annotated[
        bool, typer.Option("--force", help="Make it again, even if it is sealed already.", rich_help_panel=_HOW)
    ] = False

    launcher: Annotated[
        Launcher,
        typer.Option("--launcher", help="What started several processes of this.", rich_help_panel=_HOW),
    ] = Launcher.torchrun

    def load_profile(self, *words: str | None) -> Profile:
        """The profile wanted, with all overrides; where a launcher started several processes, they meet here."""
        from pipelines.store import processes

        profile = self.load(self.profile, *words)
        if self.launcher is Launcher.slurm:
            processes.launched_by_slurm()
        processes.keep_freed_memory()
        processes.join(device=profile.device)
        return profile

    def how(self) -> dict[str, Any]:
        """The keywords every pipeline takes besides its own."""
        from pipelines.store import processes

        return {
            "store": self.open_store(),
            "force": self.force,
            "dry_run": self.dry_run,
            "progress": not self.as_json and processes.is_first(),
        }


def command(**defaults: Any) -> Callable[[Callable[..., Result]], Callable[..., None]]:
    """Make a function ``(options, *, own options) -> result`` a command.

    The dataclass that annotates ``options`` is unfolded into shell options; what the function returns is printed, what
    it raises becomes a sentence and an exit code.

    Args:
        **defaults: Other defaults for shared options, such as ``profile="float"``.
    """

    def decorate(function: Callable[..., Result]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        kind = hints.pop("options")
        shared = {field.name: field for field in dataclasses.fields(kind)}

        @functools.wraps(function)
        def run(**given: Any) -> None:
            options = kind(**{name: given.pop(name) for name in shared})
            guarded(lambda: function(options, **given), as_json=options.as_json)

        run.__signature__ = _unfolded(function, kind=kind, defaults=defaults)  # type: ignore[attr-defined]
        run.__annotations__ = {name: one.annotation for name, one in inspect.signature(run).parameters.items()}
        run.__doc__ = _without_wraps(function.__doc__)
        del run.__wrapped__
        return run

    return decorate


def _unfolded(function: Callable[..., Any], *, kind: type, defaults: dict[str, Any]) -> inspect.Signature:
    """The function's own parameters, then one keyword per field of the options dataclass."""
    own_hints = get_type_hints(function, include_extras=True)
    own = [
        one.replace(annotation=own_hints[one.name], kind=inspect.Parameter.KEYWORD_ONLY)
        for one in inspect.signature(function).parameters.values()
        if one.name != "options"
    ]
    hints = get_type_hints(kind, include_extras=True)
    shared = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=defaults.get(field.name, field.default),
            annotation=hints[field.name],
        )
        for field in dataclasses.fields(kind)
    ]
    return inspect.Signature([*own, *shared])


def _without_wraps(text: str | None) -> str:
    """A docstring with its paragraphs each on one line, as the terminal wraps them; indented examples stay."""
    paragraphs = inspect.cleandoc(text or "").split("\n\n")
    joined = [one if one.startswith(("  ", "\b")) else re.sub(r"\n", " ", one) for one in paragraphs]
    return "\n\n".join(joined)
