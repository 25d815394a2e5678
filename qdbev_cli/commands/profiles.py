"""``qdbev profiles``: which there are, what they say, and are they right?"""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated, Any

import typer

from pipelines.reporting.outcome import Outcome
from profiles.wording import counted
from qdbev_cli import completion
from qdbev_cli.options import OutputOptions, ProfileOptions, command

app = typer.Typer(no_args_is_help=True, help="List, show and check profiles.")

_SHOWN_IN = "w4a6"  # the profile that a model or a recipe is shown in


@app.command("list")
@command()
def list_all(options: OutputOptions) -> Outcome:
    """List the built-in profiles, models and recipes.

    Example: qdbev profiles list
    """
    import profiles
    from profiles.description import headline
    from qdbev.reporting.tables.table import plain_table

    rows: list[list[Any]] = []
    for name, path in profiles.builtin_profiles().items():
        rows.append(["profile", name, profiles.load(name).quantization.label, headline(path)])
    rows += [["model", name, "", headline(path)] for name, path in profiles.builtin_models().items()]
    rows += [["recipe", name, "", headline(path)] for name, path in profiles.builtin_recipes().items()]
    names = {
        "profiles": [*profiles.builtin_profiles()],
        "models": [*profiles.builtin_models()],
        "recipes": [*profiles.builtin_recipes()],
    }
    headers, keys = ["", "name", "bits", "what it is"], ["kind", "name", "bits", "what it is"]
    table = plain_table("profiles", title="", headers=headers, rows=rows, keys=keys)
    return Outcome(tables=[table], messages=["qdbev profiles show NAME prints all fields"], details=names)


@app.command("show")
@command()
def show(
    options: ProfileOptions,
    name: Annotated[
        str,
        typer.Argument(help="A profile, a model, a recipe or a YAML file.", autocompletion=completion.shown_names),
    ] = "w4a6",
) -> Outcome:
    """Print a whole profile as YAML, every field with its meaning.

    A model or a recipe is shown in the profile w4a6.

    Example: qdbev profiles show w4a6 --set qat.stages=1
    """
    import profiles
    from profiles.description import as_yaml

    kind = profiles.kind_of(name)
    if kind == "model":
        options, name = dataclasses.replace(options, model=name), _SHOWN_IN
    elif kind == "recipe":
        options, name = dataclasses.replace(options, recipes=[*(options.recipes or []), name]), _SHOWN_IN
    profile = options.load(name)
    return Outcome(document=f"{as_yaml(profile)}\n", details={"profile": profile.model_dump(mode="json")})


@app.command("check")
@command()
def check(
    options: ProfileOptions,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Profiles or YAML files; all built-in where none.", autocompletion=completion.profile_names
        ),
    ] = None,
) -> Outcome:
    """Check profiles: exit code 2 and a sentence naming the field if one is wrong.

    Example: qdbev profiles check my-profile.yaml
    """
    import profiles
    from qdbev.reporting.tables.table import plain_table

    rows = []
    for name in names or profiles.builtin_profiles():
        profile = options.load(name)
        rows.append([profile.name, profile.model.name, profile.quantization.label, "right"])
    headers, keys = ["profile", "model", "bits", ""], ["profile", "model", "bits", "state"]
    table = plain_table("profiles", title="", headers=headers, rows=rows, keys=keys)
    return Outcome(
        tables=[table], messages=[f"{counted(len(rows), 'profile')} {'is' if len(rows) == 1 else 'are'} right"]
    )


@app.command("schema")
@command()
def schema(options: OutputOptions) -> Outcome:
    """Print the JSON schema of a profile's file, for editors.

    A first line "# yaml-language-server: $schema=profile.schema.json" in a YAML file lets editors complete its fields.

    Example: qdbev profiles schema > profile.schema.json
    """
    from profiles.schema import profile_schema

    document = profile_schema()
    return Outcome(document=f"{json.dumps(document, indent=2)}\n", details={"schema": document})
