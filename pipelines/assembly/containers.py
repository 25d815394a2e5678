"""Where the weights lie in a checkpoint: what training programs put around them, and what they put before each name.

- ``{"meta", "state_dict", "optimizer"}`` (mmcv, the official BEVFormer files), ``{"model": ...}``, ``{"net": ...}``,
  ``{"epoch", "model_state_dict"}``, lists and containers in containers: the one place that holds tensors by name;
- ``ema_state_dict``, ``state_dict_ema``, ``model_ema`` and the like: a second copy, left out with a word. mmengine's
  ``EMAHook`` swaps the averaged weights into the ``state_dict`` before it is saved;
- ``module.`` (parallel wrappers), ``model.`` (Lightning), ``_orig_mod.`` (``torch.compile``): taken off the names;
- ``ema_*``, ``model_ema.*`` beside the weights (mmcv's ``EMAHook`` and others): left out with a word.

Of two places that could both be meant, the one whose names are the model's is; where that is none or both, nothing is
guessed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from profiles.wording import counted

Tensors = dict[str, Tensor]

_ELSE = re.compile(r"optim|sched|message_hub|^meta$|scaler|callbacks|loops|rng|hyper_parameters|config|^args$", re.I)
"""Containers that hold numbers of a training, and no weights."""
_COPY = re.compile(r"(^|[._])(ema|swa|averaged|n_averaged)([._0-9]|$)", re.I)
"""A second copy of the weights, by the name of its container or the start of its tensors' names."""
_WRAPPERS = {
    "module": "saved from a parallel wrapper",
    "_orig_mod": "saved from a compiled model",
    "model": "saved from a model that holds the detector",
    "net": "saved from a model that holds the detector",
    "network": "saved from a model that holds the detector",
    "detector": "saved from a model that holds the detector",
    "state_dict": "saved from a container written out flat",
}
_INSERTED = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What torch itself puts anywhere into names."""
_DEEPEST = 4
_LISTED = 6


class Unclear(ValueError):
    """There is no reading of a checkpoint, or more than one; the message says what lies where."""


class Reading(NamedTuple):
    """The tensors that are meant."""

    tensors: Tensors
    """By the names of the model."""
    remarks: tuple[str, ...]
    """What was taken off names, and what lies beside and was left out; a sentence each."""


def reading_of(content: Any, *, wanted: Collection[str]) -> Reading:
    """The weights in what a checkpoint holds.

    Args:
        content: Dictionaries and lists with tensors in them.
        wanted: The model's own names, which decide between two places; a prefix that they have themselves stays.

    Raises:
        Unclear: No tensors by name, or several places that could be meant.
    """
    places = dict(_places(content, path=""))
    if not places:
        raise Unclear(f"holds {_described(content)}, not tensors by name; save model.state_dict() in it")
    place = _meant(places, wanted=wanted)
    tensors, remarks = _plain_names(places[place], wanted=wanted)
    others = [name for name in places if name != place and not (_inside(name, place) or _ELSE.search(name))]
    if place not in ("", "state_dict"):
        remarks = (f"the weights are taken from {place}", *remarks)
    if others:
        kind = "a second copy" if all(_COPY.search(name) for name in others) else "not the weights"
        remarks = (*remarks, f"left out, {kind}: {_listed({name: places[name] for name in others})}")
    return Reading(tensors, remarks)


def _inside(name: str, place: str) -> bool:
    return place != "" and name.startswith(f"{place}.")


def _places(content: Any, *, path: str) -> Iterator[tuple[str, Tensors]]:
    """Every container with tensors by name, by its own dotted name; ``""`` is the whole file."""
    if path.count(".") >= _DEEPEST or not isinstance(content, Mapping | list | tuple):
        return
    entries = content.items() if isinstance(content, Mapping) else enumerate(content[:_LISTED])
    items = [(str(name), value) for name, value in entries]
    tensors = {name: value for name, value in items if isinstance(value, Tensor)}
    if tensors and isinstance(content, Mapping):
        yield path, tensors
    for name, value in items:
        if not _ELSE.search(name):
            yield from _places(value, path=f"{path}.{name}".lstrip("."))


def _meant(places: Mapping[str, Tensors], *, wanted: Collection[str]) -> str:
    """The name of the place that holds the weights."""
    first = {name: tensors for name, tensors in places.items() if not _COPY.search(name)} or dict(places)
    most = max(len(tensors) for tensors in first.values())
    rivals = [name for name, tensors in first.items() if 2 * len(tensors) >= most]
    if len(rivals) > 1:
        rivals = [name for name in rivals if _plain_names(places[name], wanted=wanted)[0].keys() == set(wanted)]
    if len(rivals) != 1:
        raise Unclear(
            f"holds tensors in more than one place, and which are meant is not clear: {_listed(places)}; save the "
            "state dict that is meant alone"
        )
    return rivals[0]


def _plain_names(tensors: Tensors, *, wanted: Collection[str]) -> tuple[Tensors, tuple[str, ...]]:
    """Tensors by the model's names, and what was done to get there."""
    remarks: list[str] = []
    renamed: dict[str, list[Tensor]] = {}
    for name, tensor in tensors.items():
        renamed.setdefault(_without_inserted(name, wanted=wanted), []).append(tensor)
    if twice := [name for name, both in renamed.items() if len(both) > 1]:
        raise Unclear(f"holds {twice[0]} twice, once from a wrapped model; save the state dict that is meant alone")
    if changed := len(tensors.keys() - renamed.keys()):
        remarks.append(f"what torch's wrappers insert taken out of {changed} names")
    tensors = {name: both[0] for name, both in renamed.items()}
    while True:
        tensors, left_out = _without_copies(tensors, wanted=wanted)
        remarks += left_out
        prefix = _wrapper(tensors, wanted=wanted)
        if prefix is None:
            return tensors, tuple(remarks)
        inner = {name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix)}
        remarks.append(f"{prefix} taken off {counted(len(inner), 'name')}: {_WRAPPERS[prefix[:-1]]}")
        if len(inner) < len(tensors):
            beside = sorted({name.partition(".")[0] for name in tensors if not name.startswith(prefix)})
            names = ", ".join(beside[:_LISTED])
            remarks.append(f"{counted(len(tensors) - len(inner), 'tensor')} beside {prefix}* left out: {names}")
        tensors = inner


def _without_inserted(name: str, *, wanted: Collection[str]) -> str:
    if name in wanted:
        return name
    for inserted in _INSERTED:
        name = name.replace(inserted, "")
    return name


def _without_copies(tensors: Tensors, *, wanted: Collection[str]) -> tuple[Tensors, list[str]]:
    firsts = {name: name.partition(".")[0] for name in tensors if name not in wanted}
    copies = {name: first for name, first in firsts.items() if _COPY.search(first)}
    if not copies or len(copies) == len(tensors):
        return tensors, []
    starts = sorted({"ema_" if first.startswith("ema_") else f"{first}." for first in copies.values()})
    kinds = " and ".join(f"{start}*" for start in starts[:_LISTED])
    remark = f"{counted(len(copies), 'tensor')} {kinds} left out: a training hook's second copy"
    return {name: one for name, one in tensors.items() if name not in copies}, [remark]


def _wrapper(tensors: Tensors, *, wanted: Collection[str]) -> str | None:
    """The prefix that stands before the weights: of a known wrapper, before half of the names or more."""
    for word in _WRAPPERS:
        prefix = f"{word}."
        count = sum(name.startswith(prefix) for name in tensors)
        if 2 * count > len(tensors) and not any(name.startswith(prefix) for name in wanted):
            return prefix
    return None


def _listed(places: Mapping[str, Tensors]) -> str:
    said = [f"{name or 'beside them'} ({counted(len(tensors), 'tensor')})" for name, tensors in places.items()]
    return ", ".join(said[:_LISTED]) + (f" and {len(said) - _LISTED} more" if len(said) > _LISTED else "")


def _described(content: Any) -> str:
    if isinstance(content, Mapping):
        names = ", ".join(str(name) for name in list(content)[:_LISTED])
        return f"a {type(content).__name__} of {len(content)} entries ({names})" if content else "an empty dict"
    return f"a {type(content).__name__}"
