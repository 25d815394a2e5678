"""Measures each layer's float32 and int8 kernel on this machine's CPU and writes a table that bit plans take.

    python scripts/measure_layer_latency.py latency.csv [--model nano] [--repeats 20] [--threads 1]
    qdbev sensitivity --plan --budget latency=0.6 --set bit_plan.latency_table=latency.csv

A layer runs alone on noise of the shape it is given in one frame, as often as the frame calls it; convolutions and
linear layers in int8 by PyTorch's quantized kernels, whose input is int8 already and whose output is rounded to int8.
These know 8 bits alone, so every number of bits up to 8 gets the same time. Deformable convolutions have no int8
kernel: their time is the float one at any bits. Embedding tables take no time and have no row.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.ao.nn.quantized as int8
from torch import Tensor, nn
from tqdm import tqdm

import profiles
from pipelines.assembly.quantized import detector_plan
from pipelines.assembly.scene import countable
from pipelines.costs.latency import device_name
from profiles import Profile
from qdbev.quantization import FLOAT_BITS

PACKED_BITS = range(2, 9)
HEADERS = ("path", "weight_bits", "activation_bits", "milliseconds")
Call = Callable[[], object]


@dataclass(frozen=True)
class Kernel:
    """One call of a layer: in float, and in int8 where there is such a kernel."""

    in_float: Call
    in_int8: Call | None


def kernels_of(module: nn.Module, given: list[tuple[Tensor, ...]]) -> Iterator[Kernel]:
    """Yield the calls of a layer in one frame.

    Args:
        module: The layer, on the meta device.
        given: Its arguments at each call, on the meta device.
    """
    for tensors in given:
        if isinstance(module, nn.MultiheadAttention):
            width = module.embed_dim
            inputs = [*tensors[:3], tensors[0]]  # what is projected out has the queries' shape
            yield from (_linear(one, inputs=width, outputs=width) for one in inputs)
        elif isinstance(module, nn.Linear):
            yield _linear(tensors[0], inputs=module.in_features, outputs=module.out_features)
        elif isinstance(module, nn.Conv2d):
            yield _convolution(tensors[0], module)
        else:
            layer, noise = module.to_empty(device="cpu").eval(), [torch.randn(one.shape) for one in tensors]
            for parameter in layer.parameters():
                nn.init.normal_(parameter, std=0.02)
            yield Kernel(lambda layer=layer, noise=noise: layer(*noise), None)  # type: ignore[misc]


def _linear(given: Tensor, *, inputs: int, outputs: int) -> Kernel:
    layer, packed = nn.Linear(inputs, outputs), int8.Linear(inputs, outputs)
    return _pair(layer, packed, torch.randn(given.shape))


def _convolution(given: Tensor, module: nn.Conv2d) -> Kernel:
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
    shape: Any = {name: getattr(module, name) for name in names}
    return _pair(nn.Conv2d(**shape), int8.Conv2d(**shape), torch.randn(given.shape))


def _pair(layer: nn.Linear | nn.Conv2d, packed: Any, noise: Tensor) -> Kernel:
    weight = layer.weight.detach()
    scales = weight.flatten(1).abs().amax(1).double() / 127
    zeros = torch.zeros(len(weight), dtype=torch.int64)
    bias = None if layer.bias is None else layer.bias.detach()
    packed.set_weight_bias(torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8), bias)
    packed.scale, packed.zero_point = 0.05, 64
    integers = torch.quantize_per_tensor(noise, 0.05, 64, torch.quint8)
    return Kernel(lambda: layer(noise), lambda: packed(integers))


def calls_of_frame(profile: Profile) -> dict[str, tuple[nn.Module, list[tuple[Tensor, ...]]]]:
    """What every quantized layer that runs is given in one frame, by its path; shapes alone."""
    detector, scene = countable(profile)
    sites, modules = detector_plan(detector, section=profile.quantization).quantized, dict(detector.named_modules())
    found: dict[str, list[tuple[Tensor, ...]]] = {site.path: [] for site in sites if site.kind != "embedding"}

    def note(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            found[path].append(tuple(one for one in (*args, *kwargs.values()) if isinstance(one, Tensor)))

        return hook

    for path in found:
        modules[path].register_forward_hook(note(path), with_kwargs=True)
    detector.shape_run(scene)()
    return {path: (modules[path], given) for path, given in found.items() if given}


def milliseconds(call: Call, *, repeats: int) -> float:
    """The median of some calls, after two to warm up."""
    for _ in range(2):
        call()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        taken.append(1e3 * (time.perf_counter() - start))
    return statistics.median(taken)


def rows_of(path: str, kernels: list[Kernel], *, repeats: int) -> Iterator[tuple[str, int, int, float]]:
    """Yield the rows of one layer: float, and every pair of bits that int8 holds."""
    in_float = sum(milliseconds(kernel.in_float, repeats=repeats) for kernel in kernels)
    packed = sum(milliseconds(kernel.in_int8 or kernel.in_float, repeats=repeats) for kernel in kernels)
    yield path, FLOAT_BITS, FLOAT_BITS, round(in_float, 6)
    for weight_bits, activation_bits in product(PACKED_BITS, PACKED_BITS):
        yield path, weight_bits, activation_bits, round(packed, 6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="CSV file to write")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="section.field=value")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*deprecated.*", module="torch")  # its successor has no CPU kernels here
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    profile = profiles.load("w4a6", model=arguments.model, overrides=arguments.overrides)
    rows: list[tuple[str, int, int, float]] = []
    with torch.inference_mode():
        for path, (module, given) in tqdm(calls_of_frame(profile).items(), unit="layer"):
            rows += rows_of(path, list(kernels_of(module, given)), repeats=arguments.repeats)
    with arguments.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADERS)
        writer.writerows(rows)
    totals = {bits: sum(row[3] for row in rows if row[1:3] == (bits, bits)) for bits in (FLOAT_BITS, 8)}
    print(f"{arguments.out}: {len({row[0] for row in rows})} layers on {device_name(torch.device('cpu'))}")
    print(f"float32 {totals[FLOAT_BITS]:.3f} ms, int8 {totals[8]:.3f} ms a frame, layers alone, one after the other")


if __name__ == "__main__":
    main()
