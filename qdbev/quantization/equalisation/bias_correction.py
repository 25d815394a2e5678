"""Bias correction: the mean error that quantized weights put on each output channel is taken off the bias.

With the error ``e = W_q - W`` of the weights a layer's output is off by ``e x``, whose mean over the data need not be
zero: ``b <- b - E[e x]`` (Nagel et al., ICCV 2019, section 4.2 and appendix B). Two ways to the mean:

* analytic: ``E[e x] = e E[x]``, and ``E[x]`` follows from the batch norm of the layer before (a clipped normal
  distribution, appendix C, where a ReLU is between); no data
* empirical: mean outputs in float and with quantized weights on the same samples, layer by layer in the order they
  run, each with all before it corrected already (appendix D); for any layer with a bias
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from qdbev.quantization.equalisation.bias_absorption import through_kernel
from qdbev.quantization.equalisation.folding import ChannelStatistics
from qdbev.quantization.equalisation.links import Link
from qdbev.quantization.equalisation.output_means import Place, observed_means
from qdbev.quantization.layers.keeping import NOWHERE, Keeper
from qdbev.quantization.layers.quantized import QuantizedWeight
from qdbev.quantization.layers.swap import quantized_layers, set_sites


@dataclass(frozen=True)
class Correction:
    """What was corrected.

    Attributes:
        shifts: path of a weight -> what its layer's bias lost, float64, (C,).
        refused: path of a quantized weight -> why its layer's bias stayed.
    """

    shifts: dict[str, Tensor]
    refused: dict[str, str]


@torch.no_grad()
def correct_analytically(
    model: nn.Module, links: Mapping[str, Link], statistics: Mapping[str, ChannelStatistics]
) -> Correction:
    """Correct the layers whose mean input a batch norm tells; in place, without data.

    At the border of a convolution that pads with zeros the input is not ``E[x]``; the paper's formula passes over it.
    A transposed convolution puts an input through its kernel once in as many outputs as its strides say.

    Args:
        model: A quantized model with weight ranges.
        links: Where inputs come from, found in the float model.
        statistics: Of the outputs as they are now.
    """
    shifts, refused = {}, {}
    for path, layer in quantized_layers(model).items():
        for weight in layer.quantized_weights():
            name, link, bias = f"{path}.{weight.name}", links.get(path), layer.bias_of(weight.name)
            mean = None if link is None else expected_input(link, statistics)
            if bias is None:
                refused[name] = "it has no bias"
            elif layer.site.kind == "deformable_conv":
                refused[name] = "a deformable convolution weighs its samples"
            elif mean is None:
                refused[name] = "no batch norm tells the mean of its input"
            else:
                error = (_deployed(weight) - weight.rows).unflatten(0, (int(getattr(layer, "groups", 1)), -1))
                shifts[name] = through_kernel(error, mean) / _outputs_of_an_input(layer)
                bias.sub_(shifts[name].to(bias))
    return Correction(shifts=shifts, refused=refused)


@torch.no_grad()
def correct_empirically(
    model: nn.Module,
    run: Callable[[], object],
    *,
    keeper: Keeper = NOWHERE,
    on_layer: Callable[[str], object] | None = None,
) -> Correction:
    """Correct every layer that has a bias, in place; afterwards all quantizers are off.

    Args:
        model: A quantized model with weight ranges, in eval mode.
        run: Runs the model over the same samples each time; called once in float and once per quantized weight.
        keeper: Is given what is done after each layer; what it kept of a call that was stopped is not done again.
        on_layer: Told the path of each weight that is corrected.
    """
    set_sites(model, [])
    layers, shifts = quantized_layers(model), {}
    places = [(path, weight.name) for path, layer in layers.items() for weight in layer.quantized_weights()]
    biases = {(path, name): bias for path, name in places if (bias := layers[path].bias_of(name)) is not None}
    refused = {f"{path}.{name}": "it has no bias" for path, name in places if (path, name) not in biases}
    work = _Corrections.taken_up(keeper.kept(), places=list(biases)) or _Corrections(observed_means(model, run, biases))
    expected = work.expected
    refused |= {f"{path}.{name}": "it did not run" for path, name in biases if (path, name) not in expected}
    _switch_weights_on(model)
    for (path, name), mean in expected.items():
        if (path, name) not in work.shifts:
            now = observed_means(model, run, [(path, name)])[path, name]
            work.shifts[path, name] = now - mean.to(now)
            keeper.keep(work.tensors(places=list(biases)))
        bias, shift = biases[path, name], work.shifts[path, name]
        bias.sub_(shift.to(bias))
        shifts[f"{path}.{name}"] = shift
        if on_layer is not None:
            on_layer(f"{path}.{name}")
    set_sites(model, [])
    return Correction(shifts=shifts, refused=refused)


@dataclass
class _Corrections:
    """What empirical correction has done: means in float, in the order that layers ran, and shifts; both by place."""

    expected: dict[Place, Tensor]
    shifts: dict[Place, Tensor] = field(default_factory=dict)

    def tensors(self, *, places: Sequence[Place]) -> dict[str, Tensor]:
        """All of it, by the numbers of places."""
        number = {place: index for index, place in enumerate(places)}
        means = {f"{number[place]}.mean": mean for place, mean in self.expected.items()}
        shifts = {f"{number[place]}.shift": shift for place, shift in self.shifts.items()}
        order = torch.tensor([number[place] for place in self.expected], dtype=torch.int64)
        return means | shifts | {"order": order, "rounds": torch.tensor(len(self.shifts))}

    @classmethod
    def taken_up(cls, kept: Mapping[str, Tensor], *, places: Sequence[Place]) -> _Corrections | None:
        """What ``tensors`` gave; None where nothing was kept."""
        if not kept:
            return None
        order = kept["order"].tolist()
        shifts = {places[index]: kept[f"{index}.shift"] for index in order if f"{index}.shift" in kept}
        return cls({places[index]: kept[f"{index}.mean"] for index in order}, shifts)


def expected_input(link: Link, statistics: Mapping[str, ChannelStatistics]) -> Tensor | None:
    """Return the mean of what a layer receives, float64, (C,); None where it is not known."""
    if link.first not in statistics or link.between not in ((), ("relu",)):
        return None
    mean, std = statistics[link.first]
    return rectified_mean(mean, std) if link.between else mean


def rectified_mean(mean: Tensor, std: Tensor) -> Tensor:
    """Return ``E[ReLU(x)]`` of a normal ``x``: ``d pdf(m / d) + m cdf(m / d)`` (appendix C).

    Args:
        mean: Means ``m``.
        std: Standard deviations ``d``, not negative.

    >>> rectified_mean(torch.tensor([0.0, 1.0, -2.0]), torch.tensor([1.0, 0.0, 0.0])).tolist()
    [0.3989422917366028, 1.0, 0.0]
    """
    ratio = mean / std
    normal = std * (-0.5 * ratio**2).exp() / math.sqrt(2 * math.pi) + mean * torch.special.ndtr(ratio)
    return torch.where(std > 0, normal, mean.clamp(min=0))


def _switch_weights_on(model: nn.Module) -> None:
    for layer in quantized_layers(model).values():
        for weight in layer.quantized_weights():
            weight.quantizer.state = "on"


def _outputs_of_an_input(layer: nn.Module) -> int:
    """Positions that a layer's output has for each one of its input, where it has more."""
    return math.prod(layer.stride) if isinstance(layer, nn.ConvTranspose2d) else 1


def _deployed(weight: QuantizedWeight) -> Tensor:
    """The weight on its grid, whatever the quantizer's switch."""
    state, weight.quantizer.state = weight.quantizer.state, "on"
    quantized = weight.quantizer(weight.rows)
    weight.quantizer.state = state
    return quantized
