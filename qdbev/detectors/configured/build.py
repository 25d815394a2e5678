"""From the model dict of an mmdet3d config to a detector with parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from mmdet3d.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from torch import nn

from qdbev.detectors.configured.detector import ConfiguredDetector
from qdbev.detectors.configured.taps import check_taps
from qdbev.detectors.detector import NoHistory
from qdbev.detectors.quiet import without_lists
from qdbev.ops.deformable_convolution import take_over_deformable


def build_configured(
    model: Mapping[str, Any],
    *,
    parts: Mapping[str, Sequence[str]],
    taps: Mapping[str, str | None] = MappingProxyType({}),
    output_layers: Sequence[str] = (),
    class_order: Sequence[int] = tuple(range(10)),
) -> ConfiguredDetector:
    """Build a detector with fresh weights; nothing is downloaded, whatever the config says of pretrained ones.

    Args:
        model: The dict ``model`` of an mmdet3d config.
        parts: Part -> paths of modules or parameters.
        taps: "image" and "bev" -> path of the module that gives these features; none or null: there are none.
        output_layers: Paths or patterns of the last layers.
        class_order: For each label of the detector, the class that it means, as the caller counts classes.

    Raises:
        ValueError: mmdet3d cannot build it; a path of the parts or taps is not in it; or parameters are in no part.
    """
    try:
        with DefaultScope.overwrite_default_scope("mmdet3d"), without_lists():
            detector: Any = MODELS.build(ConfigDict(without_pretrained(model)))
            detector.init_weights()
    except Exception as error:  # a config may fail in any way
        raise ValueError(f"mmdet3d cannot build the config's model: {type(error).__name__}: {error}") from error
    if not hasattr(detector, "data_preprocessor"):
        raise ValueError(f"{type(detector).__name__} is no detector of mmdet3d: it has no data_preprocessor")
    take_over_deformable(detector)
    check_parts(detector, parts=parts)
    check_taps(detector, taps=taps)
    detector.__class__ = type(type(detector).__name__, (ConfiguredDetector, type(detector)), {})
    detector.history = NoHistory()
    detector.stated_parts = {name: list(paths) for name, paths in parts.items()}
    detector.stated_taps = dict(taps)
    detector.stated_outputs = tuple(output_layers)
    detector.class_order = tuple(class_order)
    built: ConfiguredDetector = detector
    return built


def without_pretrained(section: Any) -> Any:
    """A config's dicts and lists without what loads weights from elsewhere.

    >>> without_pretrained({"type": "ResNet", "init_cfg": {"type": "Pretrained", "checkpoint": "x"}, "depth": 18})
    {'type': 'ResNet', 'depth': 18}
    """
    if isinstance(section, Mapping):
        return {name: without_pretrained(value) for name, value in section.items() if not _loads(name, value)}
    if isinstance(section, list | tuple):
        return type(section)(without_pretrained(value) for value in section if not _loads("init_cfg", value))
    return section


def _loads(name: str, value: Any) -> bool:
    if name == "pretrained":
        return True
    return name == "init_cfg" and isinstance(value, Mapping) and value.get("type") == "Pretrained"


def check_parts(detector: nn.Module, *, parts: Mapping[str, Sequence[str]]) -> None:
    """Check that the parts name what the detector has, and leave no parameter over.

    Raises:
        ValueError: Naming the paths, and the modules to choose from.
    """
    names = [name for name, _ in detector.named_parameters()]
    known = {name for name, _ in detector.named_modules()} | set(names)
    stated = [path for paths in parts.values() for path in paths]
    children = ", ".join(name for name, child in detector.named_children() if any(True for _ in child.parameters()))
    if wrong := [path for path in stated if path not in known or not path]:
        raise ValueError(
            f"parts name {', '.join(map(repr, wrong))}, which {type(detector).__name__} does not have; its modules "
            f"with parameters are {children}"
        )
    if twice := sorted({path for path in stated if stated.count(path) > 1}):
        raise ValueError(f"parts name {', '.join(twice)} twice; every path belongs to one part")
    left = [name for name in names if not any(name == path or name.startswith(f"{path}.") for path in stated)]
    if left:
        tops = ", ".join(dict.fromkeys(name.partition(".")[0] for name in left))
        raise ValueError(
            f"{len(left)} parameters of {type(detector).__name__} are in no part, those of {tops} (first {left[0]}); "
            "add their paths to backbone, neck, encoder or decoder of mmdet3d.parts"
        )
