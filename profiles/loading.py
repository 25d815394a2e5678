"""Profiles from YAML: built-in names, files, models and overrides, layered into one frozen document.

Layers, the later over the earlier: schema defaults, the model's file, what the profile extends, the profile's own
file, recipes, overrides. A model's file may state any section, so nano can bring the short schedules a small detector
needs; a recipe is a method, which goes with any bits and any model.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from profiles.complaint import complaints
from profiles.document import ProfileError
from profiles.home import expanded, is_file, what_lies
from profiles.overrides import apply_overrides, overlay, parse_override
from profiles.profile import Profile
from profiles.wording import counted, did_you_mean, quoted
from profiles.yaml_text import LONGEST, read_yaml

BUILTIN = Path(__file__).parent / "builtin"
_TOLD = 5  # wrong fields in one complaint


def builtin_profiles() -> dict[str, Path]:
    """Names of the shipped profiles and their files."""
    return {path.stem: path for path in sorted(BUILTIN.glob("*.yaml"))}


def builtin_models() -> dict[str, Path]:
    """Names of the shipped models and their files."""
    return {path.stem: path for path in sorted((BUILTIN / "models").glob("*.yaml"))}


def builtin_recipes() -> dict[str, Path]:
    """Names of the shipped recipes and their files."""
    return {path.stem: path for path in sorted((BUILTIN / "recipes").glob("*.yaml"))}


def kind_of(name: str) -> str | None:
    """What a shipped name is: profile, model or recipe; None where nothing shipped is called so."""
    kinds = {"profile": builtin_profiles(), "model": builtin_models(), "recipe": builtin_recipes()}
    return next((kind for kind, known in kinds.items() if name in known), None)


def load(
    name_or_path: str | Path,
    *,
    model: str | None = None,
    recipes: Iterable[str] = (),
    overrides: Iterable[str] = (),
    seed: int | None = None,
    device: str | None = None,
) -> Profile:
    """Read a profile.

    Args:
        name_or_path: A built-in name (``w4a6``) or the path of a YAML file.
        model: A built-in model (``nano``) or the path of a model's YAML file, in place of the profile's own.
        recipes: Built-in recipes (``paper``) or paths of YAML files, the later over the earlier; the profile's name
            ends in theirs.
        overrides: ``section.field=value`` words; recorded in the result's ``overrides``.
        seed: In place of the profile's seed; recorded like an override.
        device: In place of the profile's device; recorded like an override.

    Returns:
        The frozen profile.

    Raises:
        ProfileError: If a name, file or field is wrong; one sentence per wrong field, saying what is allowed.
    """
    words = list(overrides)
    words += [f"{name}={value}" for name, value in (("seed", seed), ("device", device)) if value is not None]
    path = _find(str(name_or_path), known=builtin_profiles(), noun="profile")
    own = _with_ancestors(path, seen=())
    name = own.setdefault("name", path.stem)
    content = overlay(_model_layer(own.pop("model", None), chosen=model), own)
    for recipe in (recipes := list(recipes)):
        stem, layer = _recipe_layer(recipe)
        content, name = overlay(content, layer), f"{name}-{stem}"
    content = apply_overrides(content | {"name": name}, words=words)
    content["overrides"] = [*([f"model={model}"] if model else []), *(f"recipe={one}" for one in recipes), *words]
    return _validated(content, title=f"profile {name}", culprits=words)


def _validated(content: dict[str, Any], *, title: str, culprits: list[str]) -> Profile:
    try:
        return Profile.model_validate(content)
    except ValidationError as error:
        sentences = complaints(error, root=Profile)
    typed = {".".join(parse_override(word)[0]): word for word in culprits}
    marked = [
        f"{text} (from {quoted(typed[text.split()[0]])[1:-1]})" if text.split()[0] in typed else text
        for text in sentences[:_TOLD]
    ]
    beyond = len(sentences) - _TOLD
    more = [f"{counted(beyond, 'more field')} {'is' if beyond == 1 else 'are'} wrong"] if beyond > 0 else []
    raise ProfileError(f"{title}: " + "; and ".join([*marked, *more]))


def _with_ancestors(path: Path, *, seen: tuple[Path, ...]) -> dict[str, Any]:
    """A profile file's content over that of the profiles it ``extends``."""
    if path in seen:
        raise ProfileError(f"profile {path.stem} extends itself: {' -> '.join(one.stem for one in (*seen, path))}")
    content = _read(path)
    if isinstance(content.get("model"), dict):
        _anchor(content["model"], folder=path.parent)
    parent = content.pop("extends", None)
    if parent is None:
        return content
    known = builtin_profiles()
    beside = path.parent / f"{parent}.yaml"
    found = beside if is_file(beside) else _find(str(parent), known=known, noun="profile")
    below = _with_ancestors(found, seen=(*seen, path))
    below.pop("name", None)
    content = dict(content)
    if isinstance(content.get("model"), str):
        below.pop("model", None)
    elif isinstance(below.get("model"), str) and isinstance(content.get("model"), dict):
        content["model"] = {"extends": below["model"], **content["model"]}
    return overlay(below, content)


def _model_layer(stated: Any, *, chosen: str | None) -> dict[str, Any]:
    """What the model's file says, as a partial profile; ``stated`` is the profile's own ``model``."""
    if chosen is not None or stated is None or isinstance(stated, str):
        return _read_model(chosen or stated or "nano")
    if not isinstance(stated, dict):
        raise ProfileError(
            f"model is {quoted(stated)}; allowed: a name, or a mapping (extends: nano takes the rest from nano)"
        )
    own = dict(stated)
    below = _read_model(str(own.pop("extends"))) if "extends" in own else {}
    return overlay(below, {"model": own})


def _read_model(name_or_path: str, *, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    path = _find(name_or_path, known=builtin_models(), noun="model")
    if path in seen:
        raise ProfileError(f"model {path.stem} extends itself: {' -> '.join(one.stem for one in (*seen, path))}")
    content = _read(path)
    if not isinstance(content.get("model"), dict):
        raise ProfileError(f"{path} describes no model; it must have a section model")
    content["model"].setdefault("name", path.stem)
    _anchor(content["model"], folder=path.parent)
    parent = content["model"].pop("extends", None)
    return overlay(_read_model(str(parent), seen=(*seen, path)), content) if parent else content


def _recipe_layer(name_or_path: str) -> tuple[str, dict[str, Any]]:
    """A recipe's name and what it says; it may not name a model, which goes before it."""
    path = _find(name_or_path, known=builtin_recipes(), noun="recipe")
    content = _read(path)
    if stray := sorted(content.keys() & {"name", "model", "extends"}):
        raise ProfileError(f"recipe {path.stem} states {', '.join(stray)}, which belongs into a profile or a model")
    return path.stem, content


def _anchor(model: dict[str, Any], *, folder: Path) -> None:
    """See the config that a model's section names from the folder of its file, in place."""
    section = model.get("mmdet3d")
    if isinstance(section, dict) and isinstance(section.get("config"), str):
        section["config"] = str(folder / expanded(section["config"]))


def _find(name_or_path: str, *, known: dict[str, Path], noun: str) -> Path:
    if name_or_path in known:
        return known[name_or_path]
    path = expanded(name_or_path)
    if path.suffix in (".yaml", ".yml") or "/" in name_or_path:
        if is_file(path):
            return path.resolve()
        name = quoted(str(path))[1:-1]
        raise ProfileError(f"{name} {lies}" if (lies := what_lies(path)) else f"there is no {noun} file {name}")
    other = kind_of(name_or_path)
    hint = f"; it is a {other}: --{other} {name_or_path}" if other else did_you_mean(name_or_path, known)
    raise ProfileError(
        f"there is no {noun} {quoted(name_or_path)}{hint} (built in: {', '.join(known)}; or the path of a YAML file)"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        if (size := path.stat().st_size) > LONGEST:
            raise ProfileError(f"{path} has {size} bytes; a profile has at most {LONGEST}")
        content = read_yaml(path.read_text(encoding="utf-8"), origin=str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise ProfileError(f"{path} is not a profile: it must be sections with fields, not {type(content).__name__}")
    return content
