"""The Typer app: every command by name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from profiles.wording import sentence as in_short
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
    profiles,
    qat_progressive,
    report,
    sensitivity,
    train_float,
)
from qdbev_cli.encoding import speak_any_encoding
from qdbev_cli.leaving import leave

_USAGE_ERRORS: Any = typer.BadParameter.__bases__


class _InShort(TyperGroup):
    """Says what is wrong with a command line in short, whatever was typed."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Read the options of the whole program."""
        with _shortened_complaints():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        """Read a command's own options and run it."""
        with _shortened_complaints():
            return super().invoke(ctx)


@contextlib.contextmanager
def _shortened_complaints() -> Iterator[None]:
    try:
        yield
    except _USAGE_ERRORS as error:
        text = in_short(error.format_message())
        error.format_message = lambda: text
        raise


app = typer.Typer(
    name="qdbev",
    cls=_InShort,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Compress camera-only bird's-eye-view detectors: which part breaks under quantization, and a 4-bit model that "
    "detects as well as the float one. Every command runs without arguments on the shipped nano detector and "
    "synthetic scenes.",
    epilog="Start with: qdbev doctor, then qdbev compress, then qdbev report.",
)
app.command("doctor")(doctor.check)
app.add_typer(data.app, name="data")
app.command("train-float")(train_float.train)
app.command("import-weights")(import_weights.import_weights)
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
        app()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    leave(code)
