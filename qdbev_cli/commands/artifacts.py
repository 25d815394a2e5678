"""``qdbev artifacts``: what is in the store, and is it sound?"""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.reporting.outcome import Outcome
from profiles.wording import sentence as in_short
from qdbev_cli import completion
from qdbev_cli.options import StoreOptions, command

app = typer.Typer(no_args_is_help=True, help="List, show and verify sealed artifacts.")


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
