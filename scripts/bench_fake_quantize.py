"""Measures the fake quantizer against torch's own and two naive forms, and prints one table.

    python scripts/bench_fake_quantize.py [--device cuda] [--repeats 20] [--bits 4] [--threads 1]

All forms run in turn inside each repeat, so that a change of the machine's load meets all of them; the best time of
each counts. On a CPU it is process time, elsewhere wall time with synchronisation. Shapes: a 256 x 256 x 3 x 3 weight
per channel, and the activation of six cameras, 256 channels, 60 x 100.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch
from tabulate import tabulate
from torch import Tensor

from qdbev.quantization import fake_quantize, scale_of_range
from qdbev.quantization.grid.integers import align_scale, integer_limits
from qdbev.quantization.ranges.observers import largest_magnitude

Variant = Callable[[Tensor, Tensor, int, int | None], Tensor]

TENSORS: dict[str, tuple[tuple[int, ...], int | None]] = {
    "weight 256x256x3x3": ((256, 256, 3, 3), 0),
    "activation 6x256x60x100": ((6, 256, 60, 100), None),
}


class _RoundStraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        return gradients[0]


def ours(x: Tensor, scale: Tensor, bits: int, axis: int | None) -> Tensor:
    return fake_quantize(x, scale=scale, bits=bits, axis=axis)


def of_torch(x: Tensor, scale: Tensor, bits: int, axis: int | None) -> Tensor:
    low, high = integer_limits(bits)
    zero = torch.zeros(scale.shape, dtype=torch.int32, device=x.device)
    if axis is None:
        return torch.fake_quantize_per_tensor_affine(x, scale, zero, low, high)
    return torch.fake_quantize_per_channel_affine(x, scale, zero, axis, low, high)


def naive(x: Tensor, scale: Tensor, bits: int, axis: int | None) -> Tensor:
    aligned = align_scale(scale, ndim=x.ndim, axis=axis)
    steps: Tensor = _RoundStraightThrough.apply(x / aligned)
    return torch.clamp(steps, *integer_limits(bits)) * aligned


def naive_detached(x: Tensor, scale: Tensor, bits: int, axis: int | None) -> Tensor:
    aligned = align_scale(scale, ndim=x.ndim, axis=axis)
    with torch.no_grad():
        grid = torch.clamp(torch.round(x / aligned), *integer_limits(bits)) * aligned
    return x + (grid - x).detach()


VARIANTS: dict[str, Variant] = {
    "naive clamp + round": naive,
    "naive x + (q - x).detach(), no clip mask": naive_detached,
    "torch.fake_quantize_*": of_torch,
    "qdbev fake_quantize": ours,
}


def measure(run: Callable[[], object], *, device: torch.device) -> float:
    """Milliseconds of one call."""
    if device.type == "cpu":
        start = time.process_time()
        run()
        return 1e3 * (time.process_time() - start)
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    torch.cuda.synchronize(device)
    return 1e3 * (time.perf_counter() - start)


def differentiate(
    call: Variant, x: Tensor, scale: Tensor, bits: int, axis: int | None, gradient: Tensor
) -> tuple[Tensor, ...]:
    return torch.autograd.grad(call(x, scale, bits, axis), x, gradient)


def bench(name: str, *, bits: int, repeats: int, device: torch.device) -> list[list[object]]:
    """Rows of the table for one tensor: best times, and ratios to the naive form."""
    shape, axis = TENSORS[name]
    x = torch.randn(shape, device=device, requires_grad=True)
    gradient = torch.randn(shape, device=device)
    scale = scale_of_range(largest_magnitude(x, axis=axis), bits=bits)
    best = {variant: [float("inf"), float("inf")] for variant in VARIANTS}
    for _ in range(repeats + 1):  # the first warms up and is as good as any for a minimum
        for variant, call in VARIANTS.items():
            with torch.no_grad():
                forward = measure(partial(call, x, scale, bits, axis), device=device)
            both = measure(partial(differentiate, call, x, scale, bits, axis, gradient), device=device)
            best[variant] = [min(best[variant][0], forward), min(best[variant][1], both)]
    reference = best["naive clamp + round"]
    return [
        [name, variant, *times, *(time_ms / base for time_ms, base in zip(times, reference, strict=True))]
        for variant, times in best.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    rows = [
        row for name in TENSORS for row in bench(name, bits=arguments.bits, repeats=arguments.repeats, device=device)
    ]
    headers = ["tensor", "form", "forward ms", "with backward ms", "forward x", "with backward x"]
    print(f"torch {torch.__version__}, {device}, {arguments.threads} thread(s), {arguments.bits} bits")
    print(tabulate(rows, headers=headers, floatfmt=("", "", ".3f", ".3f", ".2f", ".2f")))


if __name__ == "__main__":
    main()
