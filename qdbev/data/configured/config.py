"""An mmdet3d config as plain data: the file with its bases, options laid over it, and the data sets it describes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmdet3d.utils import register_all_modules
from mmengine.config import Config

_LOADERS = {"train": ("train_dataloader",), "test": ("test_dataloader", "val_dataloader")}


def read_config(path: Path | str, *, options: Mapping[str, Any]) -> dict[str, Any]:
    """Read a config file and the modules it imports by ``custom_imports``; mmdet3d's own are registered.

    Args:
        path: A file of mmengine's config format. It is a program, and it runs: use configs that you trust.
        options: Dotted names to values, laid over it as mmengine's ``cfg-options``.

    Raises:
        ValueError: It cannot be read, or describes no model.
    """
    register_all_modules(init_default_scope=False)
    try:
        config = Config.fromfile(str(path))
        config.merge_from_dict(dict(options))
    except Exception as error:  # a config is a program and may fail in any way
        raise ValueError(f"the config {path} cannot be read: {type(error).__name__}: {error}") from error
    content: dict[str, Any] = config.to_dict()
    if not isinstance(content.get("model"), dict):
        raise ValueError(f"the config {path} describes no model; it must have a dict `model`")
    return content


def dataset_section(config: Mapping[str, Any], *, name: str) -> dict[str, Any]:
    """The data set of a config's data loader; wrappers that repeat or balance samples are taken off.

    Args:
        config: By ``read_config``.
        name: ``train`` or ``test``.

    Raises:
        ValueError: There is none, or it has no pipeline.
    """
    names = _LOADERS[name]
    section = next((config[one].get("dataset") for one in names if isinstance(config.get(one), dict)), None)
    while isinstance(section, dict) and isinstance(section.get("dataset"), dict):
        section = section["dataset"]
    if not isinstance(section, dict) or not section.get("pipeline"):
        raise ValueError(
            f"the config has no {' or '.join(names)} whose dataset has a pipeline; qdbev reads nuScenes through it"
        )
    return dict(section)
