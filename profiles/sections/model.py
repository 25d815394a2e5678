"""The detector: a name, its weights, and the section of the kind that ``detector`` chooses.

A kind is a module of ``profiles/detectors`` with a ``DetectorProfile`` of its own; there is no list of them to keep.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, TypeAdapter

import profiles.detectors
from profiles.detectors.detector import DetectorProfile


def _kinds() -> tuple[type[DetectorProfile], ...]:
    for module in pkgutil.iter_modules(profiles.detectors.__path__):
        importlib.import_module(f"{profiles.detectors.__name__}.{module.name}")
    return tuple(sorted(DetectorProfile.__subclasses__(), key=lambda kind: str(kind.model_fields["detector"].default)))


if TYPE_CHECKING:
    ModelProfile = DetectorProfile
else:
    ModelProfile = Annotated[reduce(or_, _kinds()), Field(discriminator="detector")]


def sealed_model(content: Mapping[str, Any], *, circumstances: Mapping[str, Any]) -> ModelProfile:
    """The model section of a manifest.

    Args:
        content: What the manifest says of the model.
        circumstances: Of the manifest's record: by dotted name, where the files lie that the section names.
    """
    filled = dict(content)
    for name, value in circumstances.items():
        section, *path = name.split(".")
        if section == "model" and value is not None:
            filled = _with(filled, path, value)
    model: ModelProfile = TypeAdapter(ModelProfile).validate_python(filled)
    return model


def _with(content: Mapping[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    step, *rest = path
    return {**content, step: _with(content[step], rest, value) if rest else value}
