"""``qdbev artifacts``: what is in the store, and is it sound?"""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.reporting.outcome import Outcome
from profiles.wording import sentence as in_short
from qdbev_cli import completion
from qdbev_cli.options import StoreOptions, command

app = typer.Typer(no_args_is_help=True, help="List, show, verify and remove sealed artifacts.")


@app.command("list")
@command()
def list_all(options: StoreOptions) -> Outcome:
    """List the artifacts of the store, oldest first.

    Example: qdbev artifacts list
    """
    from pipelines.commands import artifacts

    return artifacts.list_all(options.open_store())


@app.command("show")
@command()
def show(
    options: StoreOptions,
    artifact: Annotated[
        str,
        typer.Argument(help="Path, folder name, start of a digest, or kind:name.", autocompletion=completion.artifacts),
    ],
) -> Outcome:
    """Show the manifest of one artifact: parents, files, metrics.

    Example: qdbev artifacts show qat:w4a6-nano
    """
    from pipelines.commands import artifacts

    return artifacts.show(options.open_store(), ref=artifact)


@app.command("verify")
@command()
def verify(
    options: StoreOptions,
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Artifacts; all of the store where none is named.", autocompletion=completion.artifacts),
    ] = None,
) -> Outcome:
    """Check every byte; exit code 3 if one is damaged.

    Example: qdbev artifacts verify
    """
    from pipelines.commands import artifacts

    outcome = artifacts.verify(options.open_store(), refs=tuple(names or ()))
    for sentence in outcome.details["damaged"]:
        typer.echo(f"qdbev: {in_short(sentence)}", err=True)
    return outcome


DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, remove nothing.")]


@app.command("rm")
@command()
def remove(
    options: StoreOptions,
    names: Annotated[
        list[str],
        typer.Argument(
            help="Paths, folder names, starts of digests, or kind:name.", autocompletion=completion.artifacts
        ),
    ],
    *,
    with_children: Annotated[bool, typer.Option("--with-children", help="Remove what stands on them, too.")] = False,
    dry_run: DryRun = False,
) -> Outcome:
    """Remove artifacts; one that others were made from is kept, unless told.

    Example: qdbev artifacts rm evaluation:w4a6-nano --dry-run
    """
    from pipelines.commands import artifacts

    store = options.open_store()
    return artifacts.remove(store, refs=tuple(names), with_children=with_children, dry_run=dry_run)


@app.command("gc")
@command()
def clear(
    options: StoreOptions,
    *,
    days: Annotated[float, typer.Option(min=0, help="Keep resume state that was written in the last days.")] = 30.0,
    dry_run: DryRun = False,
) -> Outcome:
    """Remove what nothing can use any more.

    Artifacts that were made from one that is gone, and resume state of trainings that nobody went on with.

    Example: qdbev artifacts gc --dry-run
    """
    from pipelines.commands import artifacts

    return artifacts.clear(options.open_store(), days=days, dry_run=dry_run)


@app.command("du")
@command()
def measure(options: StoreOptions) -> Outcome:
    """Show how large the store is, kind by kind.

    Example: qdbev artifacts du
    """
    from pipelines.commands import artifacts

    return artifacts.measure(options.open_store())
