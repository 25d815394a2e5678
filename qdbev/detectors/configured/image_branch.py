"""The image branch of an mmdet3d detector as a graph of tensors alone: what of its backbone and neck sees the images.

A config does not say what runs on images. So the detector runs a key frame and is watched: the first module of the
branch takes the images as the preprocessor leaves them, each further one takes exactly what the one before gives. What
the branch gives of every frame has to be what the detector computed, to the last bit.

Shapes: N images of a key frame, C channels, H W of an image or map.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from mmdet3d.structures import Det3DDataSample
from torch import Tensor, nn

from qdbev.detectors.configured.detector import ConfiguredDetector
from qdbev.detectors.frame_graph import TensorGraph, Tensors

_IMAGES = "imgs"  # of what mmdet3d's preprocessors give
_PARTS = ("backbone", "neck")


@dataclass
class Call:
    """One call of a module.

    Attributes:
        maps: What it was given, as far as that is one map or a list of maps.
        alone: Whether it was given one map instead of a list.
        gave: What it gave, likewise; None where that is something else.
    """

    maps: list[Tensor] | None
    alone: bool
    gave: list[Tensor] | None = None


@dataclass
class Seen:
    """What was seen while a detector ran.

    Attributes:
        images: (N, 3, H, W) as the preprocessor left them.
        calls: Path of a module -> its calls.
    """

    images: Tensor | None = None
    calls: dict[str, list[Call]] = field(default_factory=dict)


class ImageBranch(TensorGraph):
    """Images of one key frame in, feature maps of each level out.

    Attributes:
        paths: The modules that run, in order.
        left_out: Other modules of backbone and neck, which see no images.
    """

    foreign = True
    carried: Mapping[str, str] = {}  # never changed
    detector: ConfiguredDetector

    def __init__(
        self, detector: ConfiguredDetector, inputs: Mapping[str, Any], data_samples: Sequence[Det3DDataSample]
    ) -> None:
        """Finds the branch while the detector, put into eval mode, runs one key frame.

        Raises:
            ValueError: There is none, or it does what a graph cannot.
        """
        super().__init__()
        self.detector = detector.eval()
        seen = self._run(inputs, data_samples)
        image, chain = _images(seen, name=self._name), _chain(seen, name=self._name)
        self.paths = list(chain)
        self.left_out = [path for path in seen.calls if path not in chain]
        self._alone = [call.alone for call in chain.values()]
        maps = _maps_of_last(chain)
        self.inputs = {"image": torch.zeros_like(image)}
        self.outputs = tuple(f"level_{index}" for index in range(len(maps)))
        self.meanings = {"image": "images of a key frame as the preprocessor leaves them (N, 3, H, W)"}
        self.meanings |= {
            name: f"map of {self.paths[-1]}, {image.shape[-1] / level.shape[-1]:g} pixels a cell (N, C, H, W)"
            for name, level in zip(self.outputs, maps, strict=True)
        }
        self.feeds(inputs, data_samples)

    @property
    def normalisation(self) -> dict[str, Any]:
        """How the preprocessor makes ``image`` of pixels, as far as it says it."""
        preprocessor = self.detector.data_preprocessor
        numbers = {name: getattr(preprocessor, name, None) for name in ("mean", "std")}
        return {
            **{name: value.flatten().tolist() for name, value in numbers.items() if isinstance(value, Tensor)},
            "swaps_red_and_blue": bool(getattr(preprocessor, "_channel_conversion", False)),
            "sides_are_multiples_of": int(getattr(preprocessor, "pad_size_divisor", 1)),
        }

    @property
    def _name(self) -> str:
        return type(self.detector).__name__

    def forward(self, image_NCHW: Tensor) -> tuple[Tensor, ...]:
        """The maps (N, C, H, W) of every level."""
        maps = [image_NCHW]
        for path, alone in zip(self.paths, self._alone, strict=True):
            maps = _maps(self.detector.get_submodule(path)(maps[0] if alone else tuple(maps))) or []
        return tuple(maps)

    def feeds(self, inputs: Mapping[str, Any], data_samples: Sequence[Det3DDataSample]) -> Tensors:
        """The images of one key frame.

        Args:
            inputs: A batch of it, as the detector takes it.
            data_samples: Its data samples.

        Raises:
            ValueError: Images of another size than the graph's, or the detector makes something else of them.
        """
        seen = self._run(inputs, data_samples)
        image = _images(seen, name=self._name)
        if image.shape != self.inputs["image"].shape:
            wanted = tuple(self.inputs["image"].shape)
            raise ValueError(f"images have shape {tuple(image.shape)}, this graph takes {wanted} alone")
        feeds, expected = {"image": image}, _maps_of_last(_chain(seen, name=self._name))
        if not all(torch.equal(*pair) for pair in zip(self.run(feeds).values(), expected, strict=True)):
            raise ValueError(
                f"{' and '.join(self.paths)} alone give other numbers than within {self._name}: they remember what "
                "they saw, draw random numbers or are told more than images, and cannot be a graph"
            )
        return feeds

    @torch.no_grad()
    def _run(self, inputs: Mapping[str, Any], data_samples: Sequence[Det3DDataSample]) -> Seen:
        paths = [path for part in _PARTS for path in self.detector.stated_parts.get(part, ())]
        modules = {path: module for path, module in self.detector.named_modules() if path in paths}
        with _watched(self.detector, {path: modules[path] for path in paths if path in modules}) as seen:
            self.detector(inputs, data_samples, mode="predict")
        return seen


@contextmanager
def _watched(detector: ConfiguredDetector, modules: Mapping[str, nn.Module]) -> Iterator[Seen]:
    seen = Seen(calls={path: [] for path in modules})
    handles = [detector.data_preprocessor.register_forward_hook(partial(_keep_images, seen))]
    for path, module in modules.items():
        calls = seen.calls[path]
        handles.append(module.register_forward_pre_hook(partial(_keep_given, calls), with_kwargs=True))
        handles.append(module.register_forward_hook(partial(_keep_result, calls)))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _keep_images(seen: Seen, _module: nn.Module, _args: Any, result: Any) -> None:
    images = result["inputs"].get(_IMAGES) if isinstance(result.get("inputs"), Mapping) else None
    seen.images = images.flatten(0, -4).clone() if isinstance(images, Tensor) and images.dim() >= 4 else None


def _keep_given(calls: list[Call], _module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    given = args[0] if len(args) == 1 and not kwargs else None
    calls.append(Call(_copies(given), alone=isinstance(given, Tensor)))


def _keep_result(calls: list[Call], _module: nn.Module, _args: Any, result: Any) -> None:
    calls[-1].gave = _copies(result)


def _maps(value: Any) -> list[Tensor] | None:
    """One map or a list of maps as a list; None of anything else."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, list | tuple) and value and all(isinstance(level, Tensor) for level in value):
        return list(value)
    return None


def _copies(value: Any) -> list[Tensor] | None:
    """The same, untouched by what is later done in place."""
    maps = _maps(value)
    return None if maps is None else [level.clone() for level in maps]


def _images(seen: Seen, *, name: str) -> Tensor:
    if seen.images is None:
        raise ValueError(f"{name} has no image branch: its preprocessor gives no images")
    return seen.images


def _chain(seen: Seen, *, name: str) -> dict[str, Call]:
    """The modules that images go through, one after the other, with their only call."""
    chain: dict[str, Call] = {}
    maps: list[Tensor] | None = [_images(seen, name=name)]
    while maps is not None and (following := _following(seen, maps=maps, but=chain)):
        path, call = following
        if len(seen.calls[path]) > 1:
            raise ValueError(
                f"{path} of {name} runs {len(seen.calls[path])} times in a key frame; a graph runs it once"
            )
        chain[path], maps = call, call.gave
    if not chain:
        raise ValueError(
            f"{name} has no image branch: of mmdet3d.parts no module of backbone or neck takes the images of a key "
            f"frame as they are ({', '.join(seen.calls) or 'none is named'})"
        )
    return chain


def _following(seen: Seen, *, maps: list[Tensor], but: Mapping[str, Call]) -> tuple[str, Call] | None:
    pairs = ((path, call) for path, calls in seen.calls.items() if path not in but for call in calls)
    return next(((path, call) for path, call in pairs if call.maps is not None and _same(call.maps, maps)), None)


def _same(some: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return len(some) == len(others) and all(map(torch.equal, some, others))


def _maps_of_last(chain: Mapping[str, Call]) -> list[Tensor]:
    path, call = list(chain.items())[-1]
    if call.gave is None or any(level.dim() != 4 for level in call.gave):
        raise ValueError(f"{path} gives something else than maps (images, channels, height, width), one a level")
    return call.gave
