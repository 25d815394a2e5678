"""Built-in rigs: descriptions of data sets' vehicles and classes, which a profile takes by name or extends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from profiles.home import expanded, is_file
from profiles.wording import did_you_mean, quoted
from profiles.yaml_text import read_yaml

NUSCENES = "nuscenes"
_BUILTIN = Path(__file__).parents[1] / "builtin" / "rigs"


def builtin_rigs() -> dict[str, Path]:
    """Names of the shipped rigs and their files; that of nuScenes is what the section says by itself."""
    return {path.stem: path for path in sorted(_BUILTIN.glob("*.yaml"))}


def rig_content(content: Any) -> Any:
    """A rig's content with what it takes from another one: a plain name, or ``extends`` and what differs.

    Args:
        content: As stated: a name, a mapping, or anything else, which is given back.

    Raises:
        ValueError: There is no such rig.
    """
    stated = {"extends": content} if isinstance(content, str) else content
    if not isinstance(stated, dict) or "extends" not in stated:
        return stated
    return {**_named(str(stated["extends"])), **{name: value for name, value in stated.items() if name != "extends"}}


def _named(name: str) -> dict[str, Any]:
    if name == NUSCENES:
        return {}
    known = builtin_rigs()
    path = known.get(name, expanded(name))
    if name not in known and not (path.suffix in (".yaml", ".yml") and is_file(path)):
        there_are = ", ".join((NUSCENES, *known))
        hint = did_you_mean(name, (NUSCENES, *known))
        raise ValueError(f"there is no rig {quoted(name)}{hint} (built in: {there_are}; or the path of a YAML file)")
    content = read_yaml(path.read_text(encoding="utf-8"), origin=str(path))
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no rig: it must be fields, not {type(content).__name__}")
    content = rig_content(content)
    return {"name": path.stem, **content}
