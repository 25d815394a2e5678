"""A check that rewrites keep what a network computes: the outputs of its modules before and after are compared.

An example is run before the first rewrite and after the last, quantizers off, and every call of every module leaves
up to 4,096 of its output's numbers, drawn once for each shape. A rewrite says which modules' outputs it changes by
design, such as those of a convolution that takes a norm's place; all others have to agree:

    share = rms(after - before) / (std(before) + 0.01 rms(before))

Rounding makes shares of one in a million or so. Above one in a thousand the example is run again with a noise of one
in a million on the outputs of all layers, which shows what rounding does to this network; the first module that
differs by more than ten times that is where a rewrite went wrong. In half precision the noise is its rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves

TOLERANCE = 1e-3
_SAMPLED = 4096
_NOISE, _MARGIN = 1e-6, 10


class Place(NamedTuple):
    """An output tensor: path of the module, number of its call, number of the tensor in what it returned."""

    path: str
    call: int
    leaf: int


class Outputs(NamedTuple):
    """What the modules of a model returned in one run.

    Attributes:
        shapes: of each tensor, in the order that the calls ended.
        samples: some of its numbers.
    """

    shapes: dict[Place, torch.Size]
    samples: dict[Place, Tensor]


class CheckedRun:
    """An example run that compares each run with the one before it where the model was rewritten in between.

    Attributes:
        differences: rewrites between two runs -> the largest share by which an output differed.
    """

    def __init__(self, model: nn.Module, run: Callable[[], object]) -> None:
        """Runs nothing yet.

        Args:
            model: A model whose quantizers, if it has any, are off.
            run: Runs it on the same samples every time.
        """
        self.differences: dict[str, float] = {}
        self._model, self._run = model, run
        self._before: Outputs | None = None
        self._rewrites: list[str] = []
        self._changed: set[str] = set()
        self._exact = True

    def __call__(self) -> object:
        """Run the example, and compare where there were rewrites since it ran last.

        Raises:
            ValueError: a rewrite changed what the network computes.
        """
        returned, outputs = self._watched_run()
        if self._before is not None and self._rewrites:
            self._compare(self._before, outputs)
        self._before, self._rewrites, self._changed = outputs, [], set()
        self._exact = True
        return returned

    def rewritten(self, rewrite: str, *, changed: Iterable[str] = (), exact: bool = True) -> None:
        """Note that the model was rewritten.

        Args:
            rewrite: In a word, such as ``folding``.
            changed: Paths of modules whose outputs it changes by design.
            exact: Whether all others stay, but for rounding; otherwise the difference is only told.
        """
        self._exact &= exact
        self._rewrites.append(rewrite)
        self._changed.update(changed)

    def sentence(self) -> str:
        """By how much outputs differ; empty where nothing was compared."""
        if not self.differences:
            return ""
        shares = [f"{rewrites} {share:.1g}" for rewrites, share in self.differences.items()]
        return f"outputs differ by a share of their spread: {', '.join(shares)}"

    def _watched_run(self) -> tuple[object, Outputs]:
        try:
            return _watched(self._model, self._run)
        except (AttributeError, LookupError, TypeError, AssertionError) as error:  # of code that knew what is gone
            if not self._rewrites:
                raise
            reason = f"{type(error).__name__}: {error}"
            message = f"{self._names()} left a network that does not run ({reason}); nothing was made"
            raise ValueError(message) from error

    def _names(self) -> str:
        return " and ".join(self._rewrites)

    def _compare(self, before: Outputs, after: Outputs) -> None:
        shares = difference(before, after, without=self._changed)
        rewrites = self._names()
        broken = next((place.path for place, share in shares.items() if not math.isfinite(share)), None)
        if broken is not None and not self._exact:
            raise ValueError(f"{rewrites} made the output of {broken} infinite or no number; nothing was made")
        if self._exact and any(not share <= TOLERANCE for share in shares.values()):
            noisy = _watched(self._model, self._run, noise=_noise_of(self._model))[1]
            rounding = difference(after, noisy, without=self._changed)
            for place, share in shares.items():
                if not share <= max(TOLERANCE, _MARGIN * rounding.get(place, math.inf)):
                    raise ValueError(
                        f"{rewrites} changed what the network computes: the output of {place.path} differs by "
                        f"{share:.2g} of its spread, more than rounding allows; nothing was made"
                    )
        self.differences[rewrites] = max(shares.values(), default=0.0)


def difference(before: Outputs, after: Outputs, *, without: Iterable[str] = ()) -> dict[Place, float]:
    """Return by which share outputs differ, in the order of the first run; places with other shapes are left out.

    Args:
        before: Of one run.
        after: Of another.
        without: Paths of modules that are left out.
    """
    skipped = set(without)
    both = [place for place, shape in before.shapes.items() if after.shapes.get(place) == shape]
    wanted = [place for place in both if place.path not in skipped]
    return {place: _share(before.samples[place], after.samples[place]) for place in wanted}


def _noise_of(model: nn.Module) -> float:
    """The noise on outputs of layers that rounding makes: more where numbers have fewer digits than float32."""
    return max([_NOISE, *(torch.finfo(value.dtype).eps for value in model.parameters() if value.is_floating_point())])


def _share(before: Tensor, after: Tensor) -> float:
    """How far two samples are apart; infinite where one is finite and the other is not."""
    if not torch.equal(before.isfinite(), after.isfinite()):
        return math.inf
    finite = before.isfinite()
    old, new = before[finite].double(), after[finite].double()
    if torch.equal(old, new):
        return 0.0
    spread = old.std(correction=0) + 0.01 * old.square().mean().sqrt()
    return float((new - old).square().mean().sqrt() / spread)


def _watched(model: nn.Module, run: Callable[[], object], *, noise: float = 0.0) -> tuple[object, Outputs]:
    """What a run returns, and the outputs in it; with noise, layers' outputs are off by such a share of themselves."""
    outputs, calls = Outputs({}, {}), dict.fromkeys((path for path, _ in model.named_modules()), 0)

    def hook(path: str, module: nn.Module, args: Any, output: Any) -> Any:
        with _disable_current_modes(), torch.no_grad():
            for leaf, tensor in enumerate(_tensors(output)):
                place = Place(path, calls[path], leaf)
                outputs.shapes[place], outputs.samples[place] = tensor.shape, _sample(tensor)
            calls[path] += 1
            if noise and module._parameters and isinstance(output, Tensor) and output.is_floating_point():
                return output + noise * torch.randn_like(output) * output.abs().mean()
        return None

    handles = [module.register_forward_hook(partial(hook, path)) for path, module in model.named_modules()]
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    try:
        with torch.random.fork_rng(list(devices)):
            torch.manual_seed(0)  # what a network draws is the same in every run
            return run(), outputs
    finally:
        for handle in handles:
            handle.remove()


def _tensors(output: object) -> Iterator[Tensor]:
    """Yield the floating-point tensors of what a module returned, also those in the attributes of its objects."""
    for leaf in tree_leaves(output):
        values = [leaf] if isinstance(leaf, Tensor) else vars(leaf).values() if hasattr(leaf, "__dict__") else ()
        yield from (value for value in values if isinstance(value, Tensor) and _is_comparable(value))


def _is_comparable(tensor: Tensor) -> bool:
    is_plain = tensor.layout == torch.strided and not tensor.is_nested and not tensor.is_meta
    return is_plain and tensor.is_floating_point() and tensor.numel() > 0


def _sample(tensor: Tensor) -> Tensor:
    """Numbers of a tensor at places that its shape alone decides, float32, as a copy."""
    if tensor.numel() <= _SAMPLED:
        return tensor.detach().flatten().to(torch.float32, copy=True)
    return tensor.detach()[_places(tensor.shape)].to(torch.float32)


@lru_cache(maxsize=1024)
def _places(shape: torch.Size) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randint(side, (_SAMPLED,), generator=generator) for side in shape)
