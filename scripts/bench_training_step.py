"""Measures what fake quantization adds to a training step, in time and memory, beside other tools on the same layers.

    pip install -e '.[bench]'   # the other tools; what cannot be imported is left out of the table
    python scripts/bench_training_step.py [--model tiny | nano] [--images 2] [--repeats 9] [--threads 1]

`tiny` is its ResNet-50 on images of 256 x 448, every parameter trained; `nano` the whole detector on one frame of six
cameras. Batch norm is folded in all forms alike, the float one too. The other tools stand in the places of our own
quantizers, with the same ranges and bits. A step is forward, backward and AdamW. All forms take turns inside each
repeat, so that a change of the machine's load meets them all; times are process time, a ratio is that to the float step
of the same repeat. Memory is what a forward pass leaves for the backward pass, per element that a layer reads
quantized; copies of quantized weights count too. The second float form shows how far apart equal things are measured.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, nn

import profiles
from pipelines.assemble import build_detector, only_bevformer
from pipelines.scene import scene_of
from qdbev.detectors.bevformer.counting import one_frame
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
from qdbev.quantization.integers import align_scale, integer_limits
from qdbev.quantization.swap import quantized_layers

Form = Callable[[Tensor], Tensor]
WEIGHT_BITS, ACTIVATION_BITS = 4, 6


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
    zero = torch.zeros(quantizer.scale.shape, dtype=torch.int32)
    if quantizer.axis is None:
        return lambda x: torch.fake_quantize_per_tensor_affine(x, quantizer.scale, zero, low, high)
    axis = quantizer.axis
    return lambda x: torch.fake_quantize_per_channel_affine(x, quantizer.scale, zero, axis, low, high)


def of_torchao(quantizer: Quantizer) -> Form:
    from torchao.quantization.quant_primitives import _fake_quantize_affine  # what its fake quantizers call

    low, high = limits_of(quantizer)
    zero = torch.zeros(quantizer.scale.shape, dtype=torch.int32)

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
    bits = torch.tensor(float(quantizer.bits))

    def run(x: Tensor) -> Tensor:
        scale = align_scale(quantizer.scale, ndim=x.ndim, axis=quantizer.axis)
        result: Tensor = made(scale, torch.zeros(()), bits, x)
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
    """A float model and how it is trained."""

    model: nn.Module
    run: Callable[[nn.Module], Tensor]


def resnet(images: int) -> Subject:
    """Tiny's backbone with every parameter trained."""
    backbone: Any = only_bevformer(
        build_detector(profiles.load("float", model="tiny").model), what="a bench"
    ).img_backbone
    x = torch.randn(images, 3, 256, 448)
    backbone.frozen_stages = -1
    fold_batchnorm(backbone, lambda: backbone(x))
    backbone.train()
    backbone.requires_grad_(True)

    def run(model: nn.Module) -> Tensor:
        result: Tensor = model(x.clone())[-1]  # made in the pass, so that what keeps it counts
        return result

    return Subject(backbone, run)


def nano() -> Subject:
    """The whole detector up to the decoder's outputs, one frame of six cameras with a history."""
    profile = profiles.load("float", model="nano")
    detector = only_bevformer(build_detector(profile.model), what="a bench")
    images, frames, history = one_frame(detector, scene_of(profile), device="cpu")
    images.normal_()
    history.bev_BQC.normal_()

    def run(model: Any) -> Tensor:
        encoded = model.encode(model.extract_feat(images.clone()), frames=frames, history=history)
        outputs = model.decode(encoded.bev_BQC)
        return torch.cat([outputs.logits_LBKC.flatten(), outputs.code_LBK10.flatten()])

    fold_batchnorm(detector, lambda: run(detector))
    detector.train()
    return Subject(detector, run)


def quantized(subject: Subject, *, learned: bool = False) -> nn.Module:
    model = copy.deepcopy(subject.model)
    plan = make_plan(model, parts={"all": [""]}, weight_bits=WEIGHT_BITS, activation_bits=ACTIVATION_BITS)
    quantize(model, plan, follow_weights=False, unsigned_inputs=True)
    with observing(model), torch.no_grad():
        subject.run(model)
    set_parts(model, {"all"})
    if learned:
        learn_ranges(model, weights=True, inputs=True)
    return model


def replaced(subject: Subject, other: Callable[[Quantizer], Form]) -> nn.Module:
    model = quantized(subject)
    for layer in quantized_layers(model).values():
        for quantizer in layer.quantizers():
            form = other(quantizer)
            quantizer.__class__ = _Replaced
            quantizer.form = form  # type: ignore[assignment]
    return model


def forms(subject: Subject) -> dict[str, nn.Module]:
    models = {
        "float": subject.model,
        "float, once more": copy.deepcopy(subject.model),
        "qdbev, ranges frozen": quantized(subject),
        "qdbev, ranges learned": quantized(subject, learned=True),
    }
    for name, (package, other) in OTHERS.items():
        if package is None or importlib.util.find_spec(package) is not None:
            models[name] = replaced(subject, other)
    return models


def step_ms(model: nn.Module, run: Callable[[nn.Module], Tensor], *, optimiser: torch.optim.Optimizer) -> float:
    start = time.process_time()
    run(model).square().mean().backward()
    optimiser.step()
    optimiser.zero_grad()
    return 1e3 * (time.process_time() - start)


def quantized_elements(model: nn.Module, run: Callable[[nn.Module], Tensor]) -> int:
    """Elements that pass the input quantizers in one forward pass."""
    seen: list[int] = []
    handles = [
        quantizer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].numel()))
        for layer in quantized_layers(model).values()
        for quantizer in layer.input_quantizers()
    ]
    with torch.no_grad():
        run(model)
    for handle in handles:
        handle.remove()
    return sum(seen)


def table(subject: Subject, *, repeats: int) -> list[list[object]]:
    models = forms(subject)
    optimisers = {
        name: torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-6)
        for name, model in models.items()
    }
    times: dict[str, list[float]] = {name: [] for name in models}
    for repeat in range(repeats + 1):
        for name, model in models.items():
            taken = step_ms(model, subject.run, optimiser=optimisers[name])
            if repeat:  # the first warms up
                times[name].append(taken)
    elements = quantized_elements(models["qdbev, ranges frozen"], subject.run)
    kept = {name: activation_memory(model, lambda m=model: subject.run(m)).kept_bytes for name, model in models.items()}  # type: ignore[misc]
    rows: list[list[object]] = []
    for name in (
        "float",
        *[each for each in models if each != "float"],
        *[each for each in OTHERS if each not in models],
    ):
        if name not in models:
            rows.append([name, *["-"] * 6])
            continue
        ratios = [one / base for one, base in zip(times[name], times["float"], strict=True)]
        bits = 8 * (kept[name] - kept["float"]) / elements
        fastest = min(times[name])
        rows.append(
            [name, fastest, statistics.median(ratios), min(ratios), max(ratios), fastest / min(times["float"]), bits]
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("tiny", "nano"), default="tiny")
    parser.add_argument("--images", type=int, default=2, help="images of a step, for tiny")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    subject = nano() if chosen.model == "nano" else resnet(chosen.images)
    names = {"torch": "torch", "torchao": "torchao", "modelopt": "nvidia-modelopt", "brevitas": "brevitas"}
    there = [f"{name} {version(name)}" for module, name in names.items() if importlib.util.find_spec(module)]
    what = "nano, one frame" if chosen.model == "nano" else f"ResNet-50, {chosen.images} x 256 x 448"
    print(f"{what}; W{WEIGHT_BITS}A{ACTIVATION_BITS}; {chosen.threads} thread(s); {', '.join(there)}\n")
    headers = ["form", "best ms", "median ratio", "least", "most", "ratio of bests", "bits per activation"]
    rows = table(subject, repeats=chosen.repeats)
    print(tabulate(rows, headers=headers, tablefmt="github", floatfmt=("", ".0f", ".2f", ".2f", ".2f", ".2f", ".2f")))


if __name__ == "__main__":
    main()
