"""``qdbev data``: make a synthetic data set in nuScenes format, or check and read one's own nuScenes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.reporting.outcome import Outcome
from profiles.sections.data import Sweeps
from qdbev_cli.options import WorkOptions, command

app = typer.Typer(no_args_is_help=True, help="Make synthetic scenes, or check and read your own nuScenes.")


@app.command("synth")
@command()
def synth(
    options: WorkOptions,
    *,
    out: Annotated[Path | None, typer.Option(help="Folder to write; the cache where not given.")] = None,
    scenes: Annotated[int | None, typer.Option(min=2, help="Scenes in all, a quarter of them for validation.")] = None,
    train_scenes: Annotated[int | None, typer.Option(min=1, max=700, help="Training scenes.")] = None,
    val_scenes: Annotated[int | None, typer.Option(min=1, max=150, help="Validation scenes.")] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Image size in pixels, such as 1600x900.")] = None,
    sweeps: Annotated[Sweeps | None, typer.Option(help="Splits with 12 Hz camera sweeps between key frames.")] = None,
    rig: Annotated[
        str | None, typer.Option(metavar="NAME", help="Cameras and classes: a built-in rig, or a file.")
    ] = None,
) -> Outcome:
    """Generate a nuScenes-format data set: cameras, LiDAR, CAN bus, all tables.

    A scene depends on the seed and its own name alone, so a small data set is a subset of a large one. Without --out
    it goes into the cache, where all other commands look for it. Here --seed is the seed of the scenes.

    Example: qdbev data synth --out /tmp/scenes --scenes 8 --seed 1
    """
    if scenes is not None:
        val_scenes = val_scenes or max(1, scenes // 4)
        train_scenes = train_scenes or scenes - val_scenes
    seed = options.seed
    profile = options.load_profile(
        None if train_scenes is None else f"data.train_scenes={train_scenes}",
        None if val_scenes is None else f"data.val_scenes={val_scenes}",
        None if seed is None else f"data.seed={seed}",
        None if size is None else f"data.image_size_px={_pixels(size)}",
        None if sweeps is None else f"data.sweeps={sweeps}",
        None if rig is None else f"data.rig={rig}",
    )
    from pipelines.commands import data

    return data.synth(profile, out=out, dry_run=options.dry_run, progress=options.progress)


@app.command("prepare")
@command()
def prepare(
    options: WorkOptions,
    *,
    root: Annotated[Path | None, typer.Option(help="Folder that holds the version's folder and samples/.")] = None,
    version: Annotated[str | None, typer.Option(help="v1.0-trainval, v1.0-mini or v1.0-test.")] = None,
    rig: Annotated[
        str | None, typer.Option(metavar="NAME", help="Cameras and classes: a built-in rig, or a file.")
    ] = None,
) -> Outcome:
    """Check your nuScenes and read its tables once, into the cache.

    Says how many files are missing, of which camera, and where each scene's motion comes from (CAN bus or ego poses).
    Other commands do the same on first use; here it is seen before anything long begins.

    Example: qdbev data prepare --root /data/nuscenes --version v1.0-mini
    """
    profile = options.load_profile(
        None if root is None else f"data.source={root}",
        None if version is None else f"data.version={version}",
        None if rig is None else f"data.rig={rig}",
    )
    from pipelines.commands import data

    return data.prepare(profile, dry_run=options.dry_run, progress=options.progress)


def _pixels(size: str) -> str:
    width, _, height = size.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise ValueError(f"--size is {size!r}; it must be width x height in pixels, such as 176x96")
    return f"[{width}, {height}]"
