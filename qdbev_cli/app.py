"""The Typer app: every command by name."""

from __future__ import annotations

from typing import Annotated

import typer

from qdbev_cli.commands import (
    artifacts,
    calibrate,
    compress,
    data,
    distill_vgd,
    doctor,
    evaluate,
    import_weights,
    profiles,
    qat_progressive,
    report,
    sensitivity,
    train_float,
)

app = typer.Typer(
    name="qdbev",
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
    """The console script ``qdbev``."""
    app()
