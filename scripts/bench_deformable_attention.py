"""Measures the forms of multi-scale deformable attention on a GPU, and how far they are from float64.

    python scripts/bench_deformable_attention.py [--repeats 30] [--batch 1]

The shapes are those of BEVFormer tiny and base: spatial cross-attention, where a cell looks into the one or two
cameras that see it, temporal self-attention and the decoder. The forms take turns inside each repeat; a time is that
of CUDA events, the median of the repeats. mmcv's own kernel is a row where mmcv was built with its CUDA operators.
Errors are the largest of the result and of the four gradients, each over the largest magnitude of what the torch form
gives in float64. Memory is the peak beyond what was there before.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from tabulate import tabulate
from torch import Tensor

from qdbev.ops import Rows, has_cuda_kernel, has_triton
from qdbev.ops.deformable_attention import Form, dense_form, mmcv_form, triton_form

HEADS, CHANNELS = 8, 32
TINY, BASE = [(15, 25)], [(116, 200), (58, 100), (29, 50), (15, 25)]


@dataclass(frozen=True)
class Shape:
    """One attention: the grid of its queries, its levels and points, and how many images the queries look into."""

    queries: tuple[int, int]
    levels: Sequence[tuple[int, int]]
    points: int
    images: int = 1


SHAPES = {
    "tiny, spatial cross-attention": Shape((50, 50), TINY, 8, images=6),
    "tiny, temporal self-attention": Shape((50, 50), [(50, 50)] * 2, 4),
    "tiny, decoder": Shape((30, 30), [(50, 50)], 4),
    "base, spatial cross-attention": Shape((200, 200), BASE, 8, images=6),
    "base, temporal self-attention": Shape((200, 200), [(200, 200)] * 2, 4),
    "base, decoder": Shape((30, 30), [(200, 200)], 4),
}


@dataclass(frozen=True)
class Problem:
    """Its inputs."""

    levels: Sequence[tuple[int, int]]
    rows: Rows
    floats: tuple[Tensor, ...]

    def run(self, form: Form, floats: tuple[Tensor, ...]) -> Tensor:
        value, *others = floats
        return form(value, self.levels, self.rows, *others)


def problem(shape: Shape, *, batch: int) -> Problem:
    """Queries of a grid; with six images a cell is seen by the one whose sector it lies in, or by two near the edge."""
    device = torch.device("cuda")
    lines, columns = shape.queries
    count, tokens = lines * columns, sum(height * width for height, width in shape.levels)
    y, x = torch.meshgrid(torch.linspace(-1, 1, lines), torch.linspace(-1, 1, columns), indexing="ij")
    if shape.images == 1:
        rows = Rows.own_image(images=batch, queries=count, device=device)
        spot = torch.stack([x, y], -1).flatten(0, 1).add(1).div(2).repeat(batch, 1).to(device)
    else:
        turn = torch.atan2(y, x).flatten() / (2 * torch.pi) * shape.images  # in cameras
        ahead = (turn[None] - torch.arange(shape.images)[:, None] + shape.images / 2) % shape.images - shape.images / 2
        seen = (ahead.abs() < 0.6).repeat(batch, 1)  # (E, Q): 72 degrees every 60
        image, query = seen.nonzero(as_tuple=True)
        rows = Rows(image.to(device), (query + image // shape.images * count).to(device))
        away = torch.hypot(x, y).flatten()
        across = ahead.repeat(batch, 1)[image, query] / 1.2 + 0.5
        spot = torch.stack([across, 0.4 + 0.1 / (away[query] + 0.1)], -1).to(device)
    references = spot[:, None, None].clone()
    value = torch.randn(batch * shape.images, tokens, HEADS, CHANNELS, device=device)
    offsets = torch.randn(batch * count, HEADS, len(shape.levels), shape.points, 2, device=device) * 3
    weights = torch.randn(batch * count, HEADS, len(shape.levels) * shape.points, device=device).softmax(-1)
    return Problem(shape.levels, rows, (value, references, offsets, weights.view(offsets.shape[:-1])))


def forms() -> dict[str, Form]:
    found: dict[str, Form] = {"torch": dense_form}
    if has_cuda_kernel():
        found["mmcv, CUDA"] = mmcv_form
    if has_triton():
        found["qdbev, Triton"] = triton_form
    return found


def both(given: Problem, form: Form, floats: tuple[Tensor, ...], gradient: Tensor) -> tuple[Tensor, ...]:
    leaves = tuple(each.detach().requires_grad_() for each in floats)
    out = given.run(form, leaves)
    return (out.detach(), *torch.autograd.grad(out, leaves, gradient))


def error(given: Problem, form: Form, gradient: Tensor, exact: tuple[Tensor, ...]) -> float:
    found = both(given, form, given.floats, gradient)
    return max(float((one - other).abs().max() / other.abs().max()) for one, other in zip(found, exact, strict=True))


def milliseconds(run: Callable[[], object]) -> float:
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    run()
    stop.record()
    torch.cuda.synchronize()
    return start.elapsed_time(stop)


def peak_mb(run: Callable[[], object]) -> float:
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kept = run()
    torch.cuda.synchronize()
    del kept
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def bench(name: str, *, batch: int, repeats: int) -> list[list[object]]:
    """Rows of the table for one shape."""
    given = problem(SHAPES[name], batch=batch)
    gradient = torch.randn_like(given.run(dense_form, given.floats))
    doubles = tuple(each.double() for each in given.floats)
    exact = both(given, dense_form, doubles, gradient.double())
    found = forms()
    errors = {form: error(given, call, gradient, exact) for form, call in found.items()}
    del exact, doubles
    forward: dict[str, list[float]] = {form: [] for form in found}
    whole: dict[str, list[float]] = {form: [] for form in found}
    for repeat in range(repeats + 3):
        for form, call in found.items():
            with torch.no_grad():
                first = milliseconds(lambda call=call: given.run(call, given.floats))  # type: ignore[misc]
            second = milliseconds(lambda call=call: both(given, call, given.floats, gradient))  # type: ignore[misc]
            if repeat >= 3:  # the first warm up
                forward[form].append(first)
                whole[form].append(second)
    memory = {
        form: peak_mb(lambda call=call: both(given, call, given.floats, gradient))  # type: ignore[misc]
        for form, call in found.items()
    }
    return [
        [name, form, statistics.median(forward[form]), statistics.median(whole[form]), memory[form], errors[form]]
        for form in found
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--batch", type=int, default=1)
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("torch sees no CUDA device, and on a CPU there is one form alone")
    torch.manual_seed(0)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, batch {chosen.batch}, float32\n")
    rows = [row for name in SHAPES for row in bench(name, batch=chosen.batch, repeats=chosen.repeats)]
    headers = ["attention", "form", "forward ms", "with backward ms", "peak MB", "largest error"]
    print(tabulate(rows, headers=headers, tablefmt="github", floatfmt=("", "", ".3f", ".3f", ".0f", ".1e")))


if __name__ == "__main__":
    main()
