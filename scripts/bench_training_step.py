"""Measures what fake quantization adds to a training step, in time and memory, beside other tools on the same layers.

    pip install -e '.[bench]'   # other tools than brevitas; what cannot be imported is left out of the table
    python scripts/bench_training_step.py [--model tiny | nano] [--images 6] [--repeats 9] [--threads 1] [--ours]
        [--device cuda]

``nano`` is a step of its training: a batch of the profile ``w4a6`` from synthetic scenes, its frame of history, the
detection losses. ``tiny`` is its ResNet-50 on images of 256 x 448, as many as a frame has cameras, every parameter
trained. Batch norm is folded in all forms alike, the float one too. The other tools stand in the places of our own
quantizers, with the same ranges and bits; their products are of float values, as ours are where a CPU does not multiply
bytes, and in the rows ``products in float``; rows of a recipe have ranges of its form. A step is forward, backward and
AdamW. The forms take turns inside each repeat, each between two float steps, to whose mean its ratio is: a machine that
slows down meanwhile changes nothing. Times are process time on a CPU, elsewhere wall time with synchronisation, and the
row ``float`` shows how far apart equal things are measured. ``--ours`` leaves the other tools out: more repeats in the
same time. Memory is what a forward pass leaves for the backward pass, per element that a layer reads quantized; copies
of quantized weights count too.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, nn
from tqdm import tqdm

import profiles
from pipelines.assembly.detector import build_detector
from pipelines.assembly.job import Job
from pipelines.assembly.quantized import folded
from pipelines.assembly.samples import training_dataset
from pipelines.assembly.weights import float_detector
from pipelines.costs.latency import device_name
from pipelines.store.artifacts import Store
from pipelines.store.processes import keep_freed_memory
from pipelines.training.run import NumberedBatches, detection_loss
from qdbev.ops import integer_weight_bits
from qdbev.quantization import (
    Quantizer,
    activation_memory,
    fold_batchnorm,
    learn_ranges,
    make_plan,
    observing,
    quantize,
    set_parts,
)
from qdbev.quantization.grid.integers import align_scale, integer_limits
from qdbev.quantization.layers.grids import InputGrid, WeightGrid
from qdbev.quantization.layers.products import float_products
from qdbev.quantization.layers.swap import quantized_layers

Form = Callable[[Tensor], Tensor]
WEIGHT_BITS, ACTIVATION_BITS = 4, 6
FLOAT = "float"
FROZEN, IN_FLOAT = "qdbev, ranges frozen", ", products in float"


class _RoundStraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return torch.round(x)

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        return gradients[0]


def limits_of(quantizer: Quantizer) -> tuple[int, int]:
    low, high = integer_limits(quantizer.grid_bits)
    return 0 if quantizer.unsigned else low, high


def naive(quantizer: Quantizer) -> Form:
    low, high = limits_of(quantizer)

    def run(x: Tensor) -> Tensor:
        scale = align_scale(quantizer.scale, ndim=x.ndim, axis=quantizer.axis)
        steps: Tensor = _RoundStraightThrough.apply(x / scale)
        return torch.clamp(steps, low, high) * scale

    return run


def of_torch(quantizer: Quantizer) -> Form:
    low, high = limits_of(quantizer)
    zero = torch.zeros_like(quantizer.scale, dtype=torch.int32)
    if quantizer.axis is None:
        return lambda x: torch.fake_quantize_per_tensor_affine(x, quantizer.scale, zero, low, high)
    axis = quantizer.axis
    return lambda x: torch.fake_quantize_per_channel_affine(x, quantizer.scale, zero, axis, low, high)


def of_torchao(quantizer: Quantizer) -> Form:
    from torchao.quantization.quant_primitives import _fake_quantize_affine  # what its fake quantizers call

    low, high = limits_of(quantizer)
    zero = torch.zeros_like(quantizer.scale, dtype=torch.int32)

    def run(x: Tensor) -> Tensor:
        block = tuple(x.shape) if quantizer.axis is None else (1, *x.shape[1:])
        result: Tensor = _fake_quantize_affine(x, block, quantizer.scale, zero, torch.int8, low, high)
        return result

    return run


def of_modelopt(quantizer: Quantizer) -> Form:
    from modelopt.torch.quantization.config import QuantizerAttributeConfig
    from modelopt.torch.quantization.nn import TensorQuantizer

    config = QuantizerAttributeConfig(
        num_bits=quantizer.bits, axis=quantizer.axis, unsigned=quantizer.unsigned, narrow_range=False
    )
    made: Any = TensorQuantizer(config)
    amax = quantizer.scale * (2**quantizer.bits - 1 if quantizer.unsigned else 2 ** (quantizer.bits - 1) - 1)
    made.amax = amax if quantizer.axis is None else amax.view(-1, *[1] * 3)

    def run(x: Tensor) -> Tensor:
        if quantizer.axis is not None and made.amax.ndim != x.ndim:
            made._amax = made.amax.view(-1, *[1] * (x.ndim - 1))
        result: Tensor = made(x)
        return result

    return run


def of_brevitas(quantizer: Quantizer) -> Form:
    from brevitas.core.function_wrapper import Identity, RoundSte, TensorClamp
    from brevitas.core.quant import IntQuant

    made: Any = IntQuant(
        narrow_range=False,
        signed=not quantizer.unsigned,
        input_view_impl=Identity(),
        float_to_int_impl=RoundSte(),
        tensor_clamp_impl=TensorClamp(),
    )
    bits, zero = torch.tensor(float(quantizer.bits)), torch.zeros((), device=quantizer.scale.device)

    def run(x: Tensor) -> Tensor:
        scale = align_scale(quantizer.scale, ndim=x.ndim, axis=quantizer.axis)
        result: Tensor = made(scale, zero, bits, x)
        return result

    return run


OTHERS: dict[str, tuple[str | None, Callable[[Quantizer], Form]]] = {
    "naive clamp and round": (None, naive),
    "torch.fake_quantize_*": (None, of_torch),
    "torchao": ("torchao", of_torchao),
    "nvidia-modelopt": ("modelopt", of_modelopt),
    "brevitas": ("brevitas", of_brevitas),
}


class _Replaced(Quantizer):
    """A quantizer whose arithmetic is another tool's."""

    form: Form

    def forward(self, x: Tensor) -> Tensor:
        return self.form(x)


@dataclass
class Subject:
    """A float model, and a forward pass of it in training up to the loss."""

    model: nn.Module
    loss: Callable[[nn.Module], Tensor]
    what: str


def resnet(images: int, *, device: str) -> Subject:
    """Tiny's backbone with every parameter trained."""
    backbone: Any = build_detector(profiles.load("float", model="tiny").model).get_submodule("img_backbone").to(device)
    x = torch.randn(images, 3, 256, 448, device=device)
    backbone.frozen_stages = -1
    for name, gain in backbone.named_parameters():
        if name.endswith("bn3.weight"):  # a fresh residual branch ends in zeros, which take other times than numbers
            nn.init.constant_(gain, 0.5)
    fold_batchnorm(backbone, lambda: backbone(x))
    backbone.train()
    backbone.requires_grad_(True)

    def loss(model: nn.Module) -> Tensor:
        result: Tensor = model(x.clone())[-1]  # made in the pass, so that what keeps it counts
        return result.square().mean()

    return Subject(backbone, loss, f"ResNet-50, {images} x 256 x 448")


def nano(images: int | None, *, device: str) -> Subject:
    """A step of its training; ``images`` is the batch, six cameras each."""
    profile = profiles.load("w4a6", overrides=["data.train_scenes=2", "data.val_scenes=1"], device=device)
    with tempfile.TemporaryDirectory() as folder:
        job = Job(profile, Store(Path(folder)))
        detector, _ = float_detector(job)
    split = job.split("train")
    folded(detector.to(device), profile=profile, split=split)
    dataset = training_dataset(split, model=profile.model, data=profile.data, schedule=profile.qat)
    size = images or profile.qat.batch_size
    batch = next(NumberedBatches(dataset, batch_size=size, seed=0, workers=0)(0, stride=1))
    detector.train().requires_grad_(True)

    def loss(model: nn.Module) -> Tensor:
        return detection_loss(model, job=job)(batch, 0)[0]

    return Subject(detector, loss, f"nano, batch {size}, with a frame of history")


def quantized(
    subject: Subject,
    *,
    weights: bool = False,
    inputs: bool = False,
    clip: bool = False,
    offset: bool = False,
    follow: bool = False,
    momentum: float | None = None,
) -> nn.Module:
    """The model with our quantizers, ranges of weights or inputs learned where wanted, but not that of the images."""
    model = copy.deepcopy(subject.model)
    plan = make_plan(model, parts={"all": [""]}, weight_bits=WEIGHT_BITS, activation_bits=ACTIVATION_BITS)
    input_grid = InputGrid(may_be_unsigned=not offset, has_offset=offset, ema_momentum=momentum)
    quantize(model, plan, weights=WeightGrid(follow=follow), inputs=input_grid)
    with observing(model), torch.no_grad():
        subject.loss(model)
    set_parts(model, {"all"})
    learn_ranges(model, weights=weights, inputs=inputs, fixed_inputs=[str(plan.first_layer)], clip=clip)
    return model


def replaced(subject: Subject, other: Callable[[Quantizer], Form]) -> nn.Module:
    model = quantized(subject)
    for layer in quantized_layers(model).values():
        for quantizer in layer.quantizers():
            form = other(quantizer)
            quantizer.__class__ = _Replaced
            quantizer.form = form  # type: ignore[assignment]
    return model


def forms(subject: Subject, *, others: bool) -> dict[str, nn.Module]:
    models = {FLOAT: subject.model}
    for products in ("", IN_FLOAT) if integer_weight_bits() >= WEIGHT_BITS else ("",):
        models[FROZEN + products] = quantized(subject)
        models["qdbev, input ranges learned" + products] = quantized(subject, inputs=True)
        models["qdbev, all ranges learned" + products] = quantized(subject, weights=True, inputs=True)
        models["qdbev, recipe hawq-v3" + products] = quantized(subject, follow=True, momentum=0.9)
        models["qdbev, recipe pact" + products] = quantized(subject, inputs=True, clip=True, follow=True)
        models["qdbev, recipe lsq-plus" + products] = quantized(subject, weights=True, inputs=True, offset=True)
    for name, (package, other) in OTHERS.items() if others else ():
        if package is None or importlib.util.find_spec(package) is not None:
            models[name] = replaced(subject, other)
    return models


def step_ms(subject: Subject, model: nn.Module, *, optimiser: torch.optim.Optimizer) -> float:
    on_gpu = next(model.parameters()).is_cuda
    clock = time.perf_counter if on_gpu else time.process_time
    wait = torch.cuda.synchronize if on_gpu else lambda: None
    wait()
    start = clock()
    subject.loss(model).backward()
    optimiser.step()
    optimiser.zero_grad()
    wait()
    return 1e3 * (clock() - start)


def quantized_elements(subject: Subject, model: nn.Module) -> int:
    """Elements that pass the input quantizers with a gradient, or beside one, in one forward pass."""
    seen: list[int] = []
    handles = [
        quantizer.register_forward_pre_hook(
            lambda module, inputs: seen.append(inputs[0].numel() if torch.is_grad_enabled() else 0)
        )
        for layer in quantized_layers(model).values()
        for quantizer in layer.input_quantizers()
    ]
    subject.loss(model)
    for handle in handles:
        handle.remove()
    return sum(seen)


def table(subject: Subject, *, repeats: int, others: bool) -> list[list[object]]:
    models = forms(subject, others=others)
    optimisers = {
        name: torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-6)
        for name, model in models.items()
    }
    times: dict[str, list[float]] = {name: [] for name in models}
    bases: dict[str, list[float]] = {name: [] for name in models}
    for repeat in tqdm(range(repeats + 1), desc="every form once", unit="round", disable=None):
        before = step_ms(subject, subject.model, optimiser=optimisers[FLOAT])
        for name, model in models.items():
            with float_products() if name.endswith(IN_FLOAT) else nullcontext():
                taken = step_ms(subject, model, optimiser=optimisers[name])
            after = step_ms(subject, subject.model, optimiser=optimisers[FLOAT])
            if repeat:  # the first warms up
                bases[name].append((before + after) / 2)
                times[name].append(taken)
            before = after
    elements = quantized_elements(subject, models[FROZEN])
    kept = {name: activation_memory(model, partial(subject.loss, model)).kept_bytes for name, model in models.items()}
    rows: list[list[object]] = []
    for name in models:
        ratios = [one / base for one, base in zip(times[name], bases[name], strict=True)]
        bits = 8 * (kept[name] - kept[FLOAT]) / elements
        rows.append([name, min(times[name]), statistics.median(ratios), min(ratios), max(ratios), bits])
    return rows + [[name, *[None] * 5] for name in OTHERS if others and name not in models]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("tiny", "nano"), default="tiny")
    parser.add_argument("--images", type=int, help="images of a step of tiny (6), or batch of nano (its profile's)")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ours", action="store_true", help="our own forms alone")
    parser.add_argument("--device", default="cpu")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    keep_freed_memory()  # as every command does
    device = chosen.device
    subject = (
        nano(chosen.images, device=device) if chosen.model == "nano" else resnet(chosen.images or 6, device=device)
    )
    names = {"torch": "torch", "triton": "triton", "torchao": "torchao", "modelopt": "nvidia-modelopt"}
    names |= {"brevitas": "brevitas"}
    there = [f"{name} {version(name)}" for module, name in names.items() if importlib.util.find_spec(module)]
    where = f"{device_name(torch.device(device))}, {chosen.threads} thread(s)"
    print(f"{subject.what}; W{WEIGHT_BITS}A{ACTIVATION_BITS}; {where}; {', '.join(there)}\n")
    headers = ["form", "best ms", "median ratio", "least", "most", "bits per activation"]
    rows = table(subject, repeats=chosen.repeats, others=not chosen.ours)
    floats = ("", ".1f" if device != "cpu" else ".0f", ".2f", ".2f", ".2f", ".2f")
    print(tabulate(rows, headers=headers, tablefmt="github", floatfmt=floats, missingval="-"))


if __name__ == "__main__":
    main()
