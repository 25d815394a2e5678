"""What each layer's bits cost to second order: the loss of a bit plan by Hessian traces (HAWQ-V2, Dong et al., 2020).

    Omega_i(b) = Tr(H_i) / n_i * ||Q_b(W_i) - W_i||^2

``H`` is the Hessian of the detection loss of the float detector on training batches. Only weights have one here.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor, nn

from pipelines.assembly.job import Job
from pipelines.assembly.quantized import Quantized
from pipelines.assembly.samples import training_dataset
from pipelines.bit_planning.candidates import Choice, Losses, Measured
from pipelines.training.run import NumberedBatches, detection_loss
from profiles.sections.schedule import PARTS
from qdbev.quantization import hutchinson_traces, perturbation_loss, quantized_layers, set_sites


def hessian_losses(candidates: Mapping[int, Quantized], *, job: Job) -> Measured:
    """The second-order loss of every layer's weights at every number of bits.

    Args:
        candidates: Bits -> the detector with all layers at these bits, everything off, weights with ranges.
        job: Its ``bit_plan`` says how many samples and probes; the seed draws both. They are of its calibration
            samples: whole scenes, so that the queues before a frame are there.

    Returns:
        The losses, and the trace of each weight by its name.
    """
    detector = copy.deepcopy(next(iter(candidates.values())).detector)
    set_sites(detector, ())
    weights = _weights(detector)
    traces = hutchinson_traces(
        _Gradients(detector, weights=list(weights.values()), job=job),
        weights,
        probes=job.profile.bit_plan.probes,
        seed=job.profile.seed,
    )
    losses: Losses = {}
    for bits, quantized in candidates.items():
        for path, layer in quantized_layers(quantized.detector).items():
            set_sites(quantized.detector, [path])
            parts = [
                perturbation_loss(
                    traces[f"{path}.{weight.name}"],
                    count=weight.value.numel(),
                    squared_error=float((weight.quantizer(weight.rows) - weight.rows).detach().double().square().sum()),
                )
                for weight in layer.quantized_weights()
            ]
            losses[Choice(path, "weights", bits)] = sum(parts)
        set_sites(quantized.detector, ())
    return Measured(losses, {"traces": traces})


class _Gradients:
    """Mean gradients of the detection loss over the same few batches at every call."""

    def __init__(self, detector: nn.Module, *, weights: list[Tensor], job: Job) -> None:
        profile, split = job.profile, job.split("train")
        calibrating = replace(split, samples=job.calibration_samples(), digest="")
        schedule = profile.qat.of_stage(PARTS)
        dataset = training_dataset(calibrating, model=profile.model, data=profile.data, schedule=schedule)
        numbered = NumberedBatches(dataset, batch_size=1, seed=profile.seed, workers=0)
        self.batches = list(islice(numbered(0, stride=1), profile.bit_plan.samples))
        self.weights = weights
        self.loss = detection_loss(detector.eval().to(job.device), job=job)

    def __call__(self) -> list[Tensor]:
        sums = [torch.zeros_like(weight) for weight in self.weights]
        for batch in self.batches:
            loss, _ = self.loss(batch, 0)
            gradients = torch.autograd.grad(loss / len(self.batches), self.weights, allow_unused=True)
            for total, gradient in zip(sums, gradients, strict=True):
                if gradient is not None:
                    total += gradient
        return sums


def _weights(detector: nn.Module) -> dict[str, Tensor]:
    """The float parameters behind the weight quantizers, by layer and name; frozen ones get gradients too."""
    return {
        f"{path}.{weight.name}": weight.value.requires_grad_(True)
        for path, layer in quantized_layers(detector).items()
        for weight in layer.quantized_weights()
    }
