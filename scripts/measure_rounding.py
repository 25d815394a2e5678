"""Measure how far the rounding of float32 alone moves what a quantized detector scores.

    python scripts/measure_rounding.py --store runs qat:w4a6-nano qat:w4a4-nano [--draws 4] [--size 3e-7]

Each artifact is scored with products of integers, where this CPU multiplies bytes, with products of float values, and a
few times more with the output of every quantized layer that is called multiplied by 1 + e, e drawn anew for each
element between plus and minus ``--size``, which is what another order of sums does to it. Nothing is sealed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import mean, stdev
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, nn

import profiles
from pipelines.assembly.job import Job
from pipelines.assembly.quantized import load_quantized
from pipelines.lineage.models import as_made
from pipelines.scoring.prediction import predict, score_results
from pipelines.store.artifacts import Artifact, Store
from qdbev.ops import integer_weight_bits
from qdbev.quantization.layers.products import float_products
from qdbev.quantization.layers.swap import quantized_layers


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifacts", nargs="+", metavar="ARTIFACT")
    parser.add_argument("--store", default="runs")
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--size", type=float, default=3e-7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    store = Store(options.store, read_only=True)
    rows = [scores(store.open(ref), draws=options.draws, size=options.size) for ref in options.artifacts]
    headers = ["artifact", "NDS, integers", "float values", f"{options.draws} draws, mean", "their spread"]
    print(tabulate(rows, headers=headers, tablefmt="github", floatfmt=".4f"))


def scores(artifact: Artifact, *, draws: int, size: float) -> list[object]:
    """A row of the table."""
    made_with = as_made(artifact, profile=profiles.load("w4a6"))
    job = Job(made_with, Store(artifact.path.parent, read_only=True), progress=True)
    whole = nds(artifact, job=job) if integer_weight_bits() else "-"
    with float_products():
        drawn = [nds(artifact, job=job, size=size, seed=draw) for draw in range(draws)]
        spread = stdev(drawn) if draws > 1 else "-"
        return [artifact.path.name, whole, nds(artifact, job=job), mean(drawn), spread]


def nds(artifact: Artifact, *, job: Job, size: float = 0.0, seed: int = 0) -> float:
    """NDS of an artifact, its layers disturbed by ``size``."""
    detector, split = load_quantized(artifact, profile=job.profile).detector, job.evaluation_split()
    with disturbed(detector, size=size, seed=seed):
        results = predict(detector, split=split, job=job, label=artifact.path.name)
    return float(score_results(results, split=split).flat()["NDS"])


@contextmanager
def disturbed(detector: nn.Module, *, size: float, seed: int) -> Iterator[None]:
    """Inside, every element that a quantized layer gives is multiplied by 1 + e, e in [-size, size]."""
    generator = torch.Generator().manual_seed(seed)

    def hook(layer: nn.Module, given: Any, out: Any) -> Any:
        if isinstance(out, tuple):  # attention, with its weights
            return (hook(layer, given, out[0]), *out[1:])
        assert isinstance(out, Tensor)
        return out + out * (size * (2 * torch.rand(out.shape, generator=generator) - 1))

    handles = [layer.register_forward_hook(hook) for layer in quantized_layers(detector).values()] if size else []
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


if __name__ == "__main__":
    main()
