"""Traces of the Hessian of a loss, weight by weight (Hutchinson 1990; HAWQ-V2, Dong et al., NeurIPS 2020).

    Tr(H_i) = E[v_i^T H v],    v of independent signs +1 and -1

H v is taken from gradients alone, H v = (g(w + h v) - g(w - h v)) / 2h: deformable attention and bilinear sampling have
no second derivative in PyTorch. One probe v spans all weights, so two gradients serve every layer; what other layers
add to v_i^T H v has mean zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

Gradients = Sequence[Tensor]


def hutchinson_traces(
    gradients: Callable[[], Gradients],
    weights: Mapping[str, Tensor],
    *,
    probes: int,
    seed: int = 0,
    relative_step: float = 3e-3,
) -> dict[str, float]:
    """Estimate the trace of each weight's own block of the Hessian, at the present weights.

    Args:
        gradients: The gradients of the loss with respect to ``weights``, in their order, where they are at the call.
        weights: Name -> tensor; moved while this runs, then put back to the bit.
        probes: Random vectors to average over, 1 or more.
        seed: Of the vectors.
        relative_step: h, as a share of each weight's root mean square: small against curvature, large against rounding.

    Returns:
        Name -> estimated trace; it may come out negative where the loss is not convex or probes are few.

    Raises:
        ValueError: no probe is asked for.
    """
    if probes < 1:
        raise ValueError(f"probes is {probes}, expected 1 or more")
    generator = torch.Generator().manual_seed(seed)
    sizes = {name: _size_of(weight) for name, weight in weights.items()}
    sums = dict.fromkeys(weights, 0.0)
    for _ in range(probes):
        signs = {name: _signs(weight, generator=generator) for name, weight in weights.items()}
        moves = [signs[name] * (relative_step * sizes[name]) for name in weights]
        above, below = _gradients_around(gradients, list(weights.values()), moves=moves)
        for name, high, low in zip(weights, above, below, strict=True):
            # signs are scaled by the weight's size on both sides of H, which is divided out here
            product = ((high - low).double() * signs[name].double()).sum()
            sums[name] += float(product) / (2 * relative_step * sizes[name])
    return {name: total / probes for name, total in sums.items()}


def perturbation_loss(trace: float, *, count: int, squared_error: float) -> float:
    """Second-order loss of moving one weight: mean trace times squared distance (HAWQ-V2).

    Args:
        trace: Of the weight's block of the Hessian; its magnitude counts: a negative estimate tells of curvature that
            few probes cannot tell from zero, which is no reason to take it for zero.
        count: Number of elements, n.
        squared_error: ``||Q(w) - w||^2``.

    >>> perturbation_loss(6.0, count=3, squared_error=0.5)
    1.0
    """
    return abs(trace) / count * squared_error


def _gradients_around(
    gradients: Callable[[], Gradients], weights: Sequence[Tensor], *, moves: Sequence[Tensor]
) -> tuple[Gradients, Gradients]:
    """Gradients a step up and a step down; the weights are put back."""
    originals = [weight.detach().clone() for weight in weights]
    sides: list[Gradients] = []
    try:
        for sign in (1.0, -1.0):
            with torch.no_grad():
                for weight, original, move in zip(weights, originals, moves, strict=True):
                    weight.copy_(original + sign * move)
            sides.append(gradients())
    finally:
        with torch.no_grad():
            for weight, original in zip(weights, originals, strict=True):
                weight.copy_(original)
    return sides[0], sides[1]


def _signs(weight: Tensor, *, generator: torch.Generator) -> Tensor:
    """Signs of the shape of a weight, drawn on the CPU so that every device sees the same."""
    drawn = torch.randint(0, 2, weight.shape, generator=generator)
    return (2 * drawn - 1).to(weight)


def _size_of(weight: Tensor) -> float:
    """Root mean square, 1 for a weight that is zero."""
    return float(weight.detach().double().square().mean().sqrt()) or 1.0
