"""The Typer app: every command by name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from profiles.wording import sentence as in_short
from qdbev_cli import misuse
from qdbev_cli.commands import (
    artifacts,
    calibrate,
    compress,
    data,
    distill_vgd,
    doctor,
    evaluate,
    export,
    import_weights,
    lint,
    profiles,
    qat_progressive,
    report,
    sensitivity,
    train_float,
)
from qdbev_cli.console import USAGE, refuse
from qdbev_cli.encoding import speak_any_encoding
from qdbev_cli.leaving import leave


class _OneSentence(TyperGroup):
    """Says what is wrong with a command line as every other error is said."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Read the options of the whole program."""
        self._as_json = "--json" in args
        with self._refusing():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Read a command's own options and run it."""
        with self._refusing():
            return super().invoke(ctx)

    @contextlib.contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except misuse.MISUSE as error:
            if misuse.shows_help(error):
                raise
            raise typer.Exit(refuse(in_short(misuse.sentence(error)), code=USAGE, as_json=self._as_json)) from None


app = typer.Typer(
    name="qdbev",
    cls=_OneSentence,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Compress camera-only bird's-eye-view detectors: which part breaks under quantization, a 4- to 8-bit model, "
    "and what that cost. Where nothing else is named, commands work on the shipped nano detector and "
    "synthetic scenes.",
    epilog="Start with: qdbev doctor, then qdbev compress, then qdbev report.",
)
app.command("doctor")(doctor.check)
app.add_typer(data.app, name="data")
app.command("train-float")(train_float.train)
app.command("import-weights")(import_weights.import_weights)
app.command("lint")(lint.lint)
app.command("calibrate")(calibrate.calibrate)
app.command("sensitivity")(sensitivity.measure)
app.command("qat-progressive")(qat_progressive.train)
app.command("distill-vgd")(distill_vgd.distill)
app.command("evaluate")(evaluate.evaluate)
app.command("compress")(compress.compress)
app.add_typer(export.app, name="export")
app.command("report")(report.report)
app.add_typer(artifacts.app, name="artifacts")
app.add_typer(profiles.app, name="profiles")


def _print_version(wanted: bool) -> None:
    if wanted:
        import qdbev

        typer.echo(f"qdbev {qdbev.__version__}")
        raise typer.Exit


@app.callback()
def _qdbev(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """The console script ``qdbev``: a command, and the end of the process."""
    speak_any_encoding()
    try:
        app(prog_name="qdbev")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    leave(code)
