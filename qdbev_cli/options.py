"""Options that commands share, as frozen dataclasses whose fields become the options of a command."""

from __future__ import annotations

import dataclasses
import enum
import functools
import inspect
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from pipelines.reporting.outcome import Outcome
from profiles.wording import sentence
from qdbev_cli import completion
from qdbev_cli.console import USAGE, guarded, refuse
from qdbev_cli.telling import PLAINLY, Telling

if TYPE_CHECKING:
    from pipelines.assembly.job import Job
    from pipelines.store.artifacts import Store
    from profiles import Profile

_WHAT, _HOW = "What", "Where and how"

NewestArtifact = Annotated[
    str | None,
    typer.Argument(
        help="Path, folder name, start of a digest, or kind:name; the newest where not given.",
        autocompletion=completion.artifacts,
    ),
]
"""An artifact in the shell's words."""


@dataclass(frozen=True)
class OutputOptions:
    """Of every command."""

    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document; all else goes to stderr.", rich_help_panel=_HOW)
    ] = False

    @property
    def telling(self) -> Telling:
        """How much is told while the command works."""
        return PLAINLY


@dataclass(frozen=True)
class StoreOptions(OutputOptions):
    """Of commands that look into the store."""

    store: Annotated[
        Path, typer.Option("--store", envvar="QDBEV_STORE", help="Folder of artifacts.", rich_help_panel=_HOW)
    ] = Path("runs")

    def open_store(self) -> Store:
        """The store; it need not exist yet.

        Raises:
            StoreUnwritable: Something is there that is no folder and leads to none.
        """
        from pipelines.store.artifacts import Store, StoreUnwritable

        store = Store(self.store)
        if os.path.lexists(store.root) and not store.root.is_dir():
            what = "a link that leads to no folder" if store.root.is_symlink() else "no folder"
            raise StoreUnwritable(f"the store {store.root} is {what}; name another with --store")
        return store


@dataclass(frozen=True)
class ProfileOptions(OutputOptions):
    """Of commands that change a profile on the way."""

    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="nano, tiny, small, base or a YAML file.",
            show_default=False,
            rich_help_panel=_WHAT,
            autocompletion=completion.model_names,
        ),
    ] = None
    recipes: Annotated[
        list[str] | None,
        typer.Option(
            "--recipe",
            help="A method over the profile; repeatable.",
            rich_help_panel=_WHAT,
            autocompletion=completion.recipe_names,
        ),
    ] = None
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="SECTION.FIELD=VALUE",
            help="Change one field of the profile; repeatable.",
            rich_help_panel=_WHAT,
            autocompletion=completion.fields,
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


Epochs = Annotated[
    float | None,
    typer.Option(
        min=0.0, help="Passes over the training samples in each stage and in distillation, in place of their steps."
    ),
]


class Launcher(enum.StrEnum):
    """What can start several processes of one command."""

    torchrun = "torchrun"
    slurm = "slurm"


@dataclass(frozen=True)
class WorkOptions(ProfileOptions):
    """Of commands that work by one profile."""

    profile: Annotated[
        str,
        typer.Option(
            "--profile",
            help="A built-in profile or a YAML file.",
            rich_help_panel=_WHAT,
            autocompletion=completion.profile_names,
        ),
    ] = "w4a6"
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done, do nothing.", rich_help_panel=_HOW)
    ] = False
    quiet: Annotated[bool, typer.Option("--quiet", help="No bars and no lines of progress.", rich_help_panel=_HOW)] = (
        False
    )
    verbose: Annotated[
        bool,
        typer.Option("--verbose", help="Also what is found sealed, and tracebacks of errors.", rich_help_panel=_HOW),
    ] = False
    log_file: Annotated[
        Path | None,
        typer.Option(
            "--log-file", help="Lines of progress and errors go there too, with their time.", rich_help_panel=_HOW
        ),
    ] = None

    @property
    def telling(self) -> Telling:
        """How much is told while the command works; of several processes the first one tells."""
        from pipelines.store import processes

        if not processes.is_first():
            return Telling(quiet=True)
        return Telling(quiet=self.quiet or self.as_json, verbose=self.verbose, log_file=self.log_file)

    def load_profile(self, *words: str | None) -> Profile:
        """The profile wanted, with all overrides; where a launcher started several processes, they meet here."""
        from pipelines.store import processes

        profile = self.load(self.profile, *words)
        processes.keep_freed_memory()
        processes.open_many_files(workers=profile.data.workers)
        processes.join(device=profile.device)
        self._tell_of_program(profile)
        return profile

    def _tell_of_program(self, profile: Profile) -> None:
        """Say on stderr, once for each, that a config in Python runs; dry runs read configs too."""
        from pipelines.assembly.config_notice import config_notice
        from pipelines.store import processes

        if processes.is_first() and (notice := config_notice(profile)):
            typer.echo(f"qdbev: {sentence(notice)}", err=True)

    @property
    def progress(self) -> bool:
        """Whether bars are shown: of several processes the first one shows them."""
        from pipelines.store import processes

        return not (self.as_json or self.quiet) and processes.is_first()


@dataclass(frozen=True)
class ReadOptions(StoreOptions, WorkOptions):
    """Of commands that read artifacts."""

    def job(self, *words: str | None, reading: str | None = None) -> Job:
        """What is wanted and where; what is mistyped is said before anything large is imported.

        Args:
            words: Overrides besides those of the options; None is skipped.
            reading: An artifact that the store must have; None asks for none.
        """
        profile, store = self.load_profile(*words), self.open_store()
        if reading:
            store.locate(reading)

        from pipelines.assembly.job import Job

        return Job(profile, store, progress=self.progress)


@dataclass(frozen=True)
class MakeOptions(ReadOptions):
    """Of commands that make an artifact."""

    force: Annotated[
        bool, typer.Option("--force", help="Make it again, even if it is sealed already.", rich_help_panel=_HOW)
    ] = False

    def job(self, *words: str | None, reading: str | None = None) -> Job:
        """The same, and whether what is sealed is made again."""
        return dataclasses.replace(super().job(*words, reading=reading), force=self.force)


@dataclass(frozen=True)
class RunOptions(MakeOptions):
    """Of commands that several processes may share out among them."""

    launcher: Annotated[
        Launcher,
        typer.Option("--launcher", help="What started several processes of this.", rich_help_panel=_HOW),
    ] = Launcher.torchrun

    def trained_for(self, epochs: float | None, *words: str | None) -> list[str]:
        """Overrides for so many epochs of the profile with ``words``, behind these words; None leaves its steps."""
        given = [word for word in words if word is not None]
        if epochs is None:
            return given
        from pipelines.costs.epochs import epoch_words

        return [*given, *epoch_words(self.load(self.profile, *given), epochs=epochs)]

    def load_profile(self, *words: str | None) -> Profile:
        """The profile wanted, with all overrides; where a launcher started several processes, they meet here."""
        from pipelines.store import processes

        if self.launcher is Launcher.slurm:
            processes.launched_by_slurm()
        return super().load_profile(*words)


def command(**defaults: Any) -> Callable[[Callable[..., Outcome]], Callable[..., None]]:
    """Make a function ``(options, *, own options) -> outcome`` a command.

    The dataclass that annotates ``options`` is unfolded into shell options; what the function returns is printed, what
    it raises becomes a sentence and an exit code.

    Args:
        **defaults: Other defaults for shared options, such as ``profile="float"``.
    """

    def decorate(function: Callable[..., Outcome]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        kind = hints.pop("options")
        shared = {field.name: field for field in dataclasses.fields(kind)}

        @functools.wraps(function)
        def run(**given: Any) -> None:
            from pipelines.store import processes

            options = kind(**{name: given.pop(name) for name in shared})
            if fault := processes.misstated():
                raise typer.Exit(refuse(sentence(fault), code=USAGE, as_json=options.as_json))
            guarded(lambda: function(options, **given), as_json=options.as_json, telling=options.telling)

        run.__signature__ = _unfolded(function, kind=kind, defaults=defaults)  # type: ignore[attr-defined]
        parameters = inspect.signature(run).parameters
        run.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
        run.__doc__ = _without_wraps(function.__doc__)
        del run.__wrapped__
        return run

    return decorate


def _unfolded(function: Callable[..., Any], *, kind: type, defaults: dict[str, Any]) -> inspect.Signature:
    """The function's own parameters, then one keyword per field of the options dataclass."""
    hints = get_type_hints(function, include_extras=True)
    parameters = [
        parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in inspect.signature(function).parameters.items()
        if name != "options"
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
    return inspect.Signature([*parameters, *shared])


def _without_wraps(text: str | None) -> str:
    """A docstring with its paragraphs each on one line, as the terminal wraps them; indented examples stay."""
    paragraphs = inspect.cleandoc(text or "").split("\n\n")
    joined = [text if text.startswith(("  ", "\b")) else re.sub(r"\n", " ", text) for text in paragraphs]
    return "\n\n".join(joined)
