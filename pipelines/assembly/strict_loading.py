"""A state dict into a model, strictly: every tensor, no other; what does not fit is counted and named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from pipelines.assembly.tensors import unlike_copies, with_aliases

_NAMED = 2


class Misfit(ValueError):
    """A state dict that is not the model's: the message counts the tensors of each kind and names a few.

    Args:
        problem: What does not fit.
        details: All tensors concerned, by kind.
        advice: What to do about it.
    """

    def __init__(self, problem: str, *, details: Mapping[str, Sequence[str]], advice: str = "check --model") -> None:
        super().__init__(f"{problem}; {advice}")
        self.problem = problem
        self.details = {"tensors": {kind: list(names) for kind, names in details.items()}}
        """All of them by kind: missing, unknown, of another shape or type, or unlike its copies."""


def load_strictly(model: nn.Module, *, state: Mapping[str, Tensor], origin: str) -> None:
    """Load a state dict in which nothing is missing, extra, or of another shape or type.

    A tensor that the model holds under several names may be there under one; where it is there under several, with the
    same numbers.

    Raises:
        Misfit: With the tensors of each kind.
        ValueError: Saying what else torch refused.
    """
    own, state = model.state_dict(), with_aliases(state, model=model)
    both = sorted(own.keys() & state.keys())
    problems = {
        "missing": sorted(own.keys() - state.keys()),
        "unknown": sorted(state.keys() - own.keys()),
        "of another shape": [
            f"{name} is {_sizes(state[name])} not {_sizes(own[name])}"
            for name in both
            if own[name].shape != state[name].shape
        ],
        "of another type": [
            f"{name} is {state[name].dtype} not {own[name].dtype}"
            for name in both
            if own[name].is_floating_point() != state[name].is_floating_point()
        ],
        "unlike the copies that the model holds as one": unlike_copies(state, model=model),
    }
    found = [f"{len(names)} {kind} ({_a_few(names)})" for kind, names in problems.items() if names]
    if found:
        raise Misfit(f"{origin} does not fit this model: tensors {'; '.join(found)}", details=problems)
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ValueError(f"{origin} does not fit this model: {_in_one_line(error)}") from error


def _sizes(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "single number"


def _a_few(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def _in_one_line(error: RuntimeError) -> str:
    """What ``load_state_dict`` found wrong, without its title: the first three findings and how many follow."""
    found = [line.strip() for line in str(error).splitlines() if line.strip()]
    found = found[1:] or found
    return "; ".join(found[:3]) + (f"; and {len(found) - 3} more" if len(found) > 3 else "")
