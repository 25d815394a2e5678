"""AdamW with a learning-rate factor per part of the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class OptimiserSettings:
    """AdamW (Loshchilov and Hutter 2019) as BEVFormer uses it.

    Attributes:
        learning_rate: Peak learning rate of a parameter with factor 1.
        weight_decay: Decoupled weight decay; on every parameter unless ``undecayed`` names it.
        part_multipliers: Factor on the learning rate by prefix of the parameter name, e.g. ``{"img_backbone": 0.1}``.
            A prefix ends at a dot of the name; the longest that matches holds. 0 freezes all below it: no gradient.
        leaf_multipliers: The same by the last word of the name, e.g. ``{"log_scale": 10.0}``, before any prefix.
        undecayed: Shell patterns of parameter names without weight decay, e.g. ``("*.scale",)``.
        clip_norm: L2 norm that all gradients together are clipped to; None never clips.
        betas: Decay of the two moments.
        epsilon: Added to the root of the second moment.
    """

    learning_rate: float = 2e-4
    weight_decay: float = 0.01
    part_multipliers: Mapping[str, float] = field(default_factory=dict)
    leaf_multipliers: Mapping[str, float] = field(default_factory=dict)
    undecayed: tuple[str, ...] = ()
    clip_norm: float | None = 35.0
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8


def part_multiplier(name: str, *, part_multipliers: Mapping[str, float]) -> float:
    """Give the learning-rate factor of a parameter: that of its longest matching prefix, else 1.

    >>> part_multiplier("img_backbone.layer1.weight", part_multipliers={"img_backbone": 0.1})
    0.1
    >>> part_multiplier("img_backbone_2.weight", part_multipliers={"img_backbone": 0.1})
    1.0
    """
    matching = [prefix for prefix in part_multipliers if _has_prefix(name, prefix=prefix)]
    return part_multipliers[max(matching, key=len)] if matching else 1.0


def build_optimiser(model: nn.Module, *, settings: OptimiserSettings, fused: bool = True) -> torch.optim.AdamW:
    """Build AdamW over the parameters that require a gradient, after those of parts with factor 0 stop requiring one.

    Each parameter group carries its factor as ``multiplier`` and its parameters' names as ``names``, in the order of
    ``model.named_parameters()`` within the group.

    Args:
        model: Model on its final device.
        settings: Optimiser settings.
        fused: Use torch's fused kernel.

    Returns:
        The optimiser.

    Raises:
        ValueError: Nothing to train, or a prefix or pattern that matches no parameter.
    """
    _refuse_idle_names(model, settings=settings)
    groups: dict[tuple[float, bool], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        of_part = part_multiplier(name, part_multipliers=settings.part_multipliers)
        if of_part == 0:
            parameter.requires_grad_(False)
        if not parameter.requires_grad:
            continue
        multiplier = settings.leaf_multipliers.get(name.rpartition(".")[2], of_part)
        decayed = not any(fnmatchcase(name, pattern) for pattern in settings.undecayed)
        group = groups.setdefault((multiplier, decayed), _empty_group(multiplier, decayed=decayed, settings=settings))
        group["params"].append(parameter)
        group["names"].append(name)
    if not groups:
        raise ValueError("the model has no parameter that requires a gradient: unfreeze what is to be trained")
    return torch.optim.AdamW(list(groups.values()), betas=settings.betas, eps=settings.epsilon, fused=fused)


def set_learning_rate(optimiser: torch.optim.Optimizer, *, learning_rate: float) -> None:
    """Set every group's rate to ``learning_rate`` times its own factor."""
    for group in optimiser.param_groups:
        group["lr"] = learning_rate * group["multiplier"]


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Give the optimiser's moments as flat tensors named ``<parameter name>|<moment>``."""
    tensors = {}
    for group in optimiser.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            for moment, value in optimiser.state.get(parameter, {}).items():
                tensors[f"{name}|{moment}"] = value
    return tensors


def load_optimiser_tensors(optimiser: torch.optim.Optimizer, *, tensors: Mapping[str, Tensor]) -> None:
    """Put moments back that ``optimiser_tensors`` gave.

    Raises:
        ValueError: A moment belongs to no parameter of this optimiser.
    """
    names = [name for group in optimiser.param_groups for name in group["names"]]
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    numbers = {name: number for number, name in enumerate(names)}
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, moment = key.rpartition("|")
        if name not in numbers:
            raise ValueError(f"a moment of {name!r}: the optimiser trains no parameter of that name")
        state.setdefault(numbers[name], {})[moment] = _laid_out_like(parameters[numbers[name]], value)
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def _laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    """The moment in the memory layout of its parameter: the fused kernel walks both without looking at strides."""
    if value.shape != parameter.shape:  # the step count
        return value
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _empty_group(multiplier: float, *, decayed: bool, settings: OptimiserSettings) -> dict[str, Any]:
    return {
        "params": [],
        "names": [],
        "multiplier": multiplier,
        "lr": settings.learning_rate * multiplier,
        "weight_decay": settings.weight_decay if decayed else 0.0,
    }


def _has_prefix(name: str, *, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix.rstrip(".") + ".")


def _refuse_idle_names(model: nn.Module, *, settings: OptimiserSettings) -> None:
    names = [name for name, _ in model.named_parameters()]
    idle = [prefix for prefix in settings.part_multipliers if not any(_has_prefix(n, prefix=prefix) for n in names)]
    leaves = {name.rpartition(".")[2] for name in names}
    idle += [leaf for leaf in settings.leaf_multipliers if leaf not in leaves]
    idle += [pattern for pattern in settings.undecayed if not any(fnmatchcase(n, pattern) for n in names)]
    if idle:
        parts = sorted({name.split(".")[0] for name in names})
        raise ValueError(f"no parameter is called {', '.join(idle)}: the model's parts are {', '.join(parts)}")
