"""Bias absorption and correction: the mean errors they claim to remove, by sampling and by hand; what they leave."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import pytest
import torch
from torch import Tensor, nn

from qdbev.quantization import (
    Connections,
    Keeper,
    absorb_biases,
    correct_analytically,
    correct_empirically,
    equalise,
    find_connections,
    finish_observing,
    fold_batchnorm,
    make_plan,
    quantize,
    rescaled,
    set_sites,
)
from qdbev.quantization.equalisation.bias_correction import rectified_mean
from qdbev.quantization.equalisation.folding import ChannelStatistics


def network(*, last: int = 1, padding: int = 0) -> nn.Sequential:
    """Convolution, batch norm, ReLU, convolution; the norm's mean is far above zero on some channels."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(4, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, last, padding=padding)
    ).eval()
    norm: nn.Module = model[1]
    with torch.no_grad():
        norm.weight.uniform_(-1.5, 1.5)
        norm.bias.copy_(torch.tensor([6.0, 9.0, 5.0, 1.0, 0.0, -1.0, 0.5, 7.0]))
        model[3].weight.add_(0.1)
    x = samples(model)
    hidden = model[0](x).detach()
    norm.running_mean.copy_(hidden.mean([0, 2, 3]))
    norm.running_var.copy_(hidden.var([0, 2, 3]))
    return model


def samples(model: nn.Module) -> Tensor:
    """Normal inputs, so that what follows a linear layer is normal too, as the analytic form supposes."""
    return torch.randn(400, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def folded(model: nn.Sequential) -> tuple[Connections, dict[str, ChannelStatistics], Tensor]:
    """Fold and equalise; the statistics of the outputs afterwards, and the samples."""
    x = samples(model)
    folding = fold_batchnorm(model, lambda: model(x[:1]))
    connections = find_connections(model, lambda: model(x[:1]))
    return connections, rescaled(folding.statistics, equalise(model, connections.pairs)), x


def quantized(model: nn.Module, *, bits: int = 3) -> None:
    quantize(model, make_plan(model, parts={"all": [""]}, weight_bits=bits, activation_bits=32))
    finish_observing(model)


def weights_on(model: nn.Module) -> None:
    set_sites(model, [path for path, module in model.named_modules() if hasattr(module, "site")])


def test_statistics_of_a_folded_layer_are_those_of_its_output() -> None:
    model = network()
    _, statistics, x = folded(model)
    out = model[0](x).detach().double()
    torch.testing.assert_close(statistics["0"].mean, out.mean([0, 2, 3]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(statistics["0"].std, out.std([0, 2, 3]), atol=1e-4, rtol=1e-4)


def test_absorption_narrows_the_activation_and_hardly_moves_the_output() -> None:
    model = network()
    connections, statistics, x = folded(model)
    expected, peak = model(x), model[:3](x).amax([0, 2, 3])
    absorption = absorb_biases(model, connections, statistics)
    constant = absorption.constants["0"]
    by_hand = (statistics["0"].mean - 3 * statistics["0"].std).clamp(min=0)
    torch.testing.assert_close(constant, by_hand)
    assert int((constant > 0).sum()) >= 3
    torch.testing.assert_close(model[:3](x).amax([0, 2, 3]), peak - constant.float(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(absorption.statistics["0"].mean, statistics["0"].mean - constant)
    changed = (model(x) - expected).abs().amax(1) > 1e-4
    assert float(changed.float().mean()) < 8 * 0.0025  # below the mean less three deviations, in any of 8 channels


@pytest.mark.parametrize(("padding", "mode"), [(1, "zeros"), (1, "replicate")])
def test_absorption_leaves_what_pads_with_zeros(padding: int, mode: str) -> None:
    model = network(last=3, padding=padding)
    old = model[3]
    model[3] = nn.Conv2d(8, 5, 3, padding=padding, padding_mode=mode)
    model[3].load_state_dict(old.state_dict())
    connections, statistics, x = folded(model)
    expected = model(x)
    absorption = absorb_biases(model, connections, statistics)
    if mode == "zeros":
        assert absorption.refused == {"0": "3 pads with zeros"}
        assert torch.equal(model(x), expected)
    else:
        assert float(((model(x) - expected).abs() > 1e-3).float().mean()) < 0.1


def test_absorption_needs_statistics_and_a_relu() -> None:
    for between, words in ((nn.ReLU(), "no batch norm"), (nn.LeakyReLU(), "no ReLU between")):
        model = nn.Sequential(nn.Linear(2, 2), between, nn.Linear(2, 1))
        connections = find_connections(model, lambda model=model: model(torch.ones(1, 2)))
        one = ChannelStatistics(torch.ones(2).double(), torch.zeros(2).double())
        refused = absorb_biases(model, connections, {} if "batch" in words else {"0": one}).refused
        assert words in refused["0"]


def test_mean_of_a_rectified_normal_is_that_of_samples() -> None:
    mean, std = torch.tensor([-2.0, -0.3, 0.0, 1.0, 4.0]).double(), torch.tensor([1.0, 2.0, 0.5, 1.0, 0.1]).double()
    drawn = mean + std * torch.randn(400_000, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(rectified_mean(mean, std), drawn.relu().mean(0), atol=6e-3, rtol=0.0)


@pytest.mark.parametrize("kernel", [1, 3])
def test_analytic_correction_removes_the_mean_error_of_the_layer(kernel: int) -> None:
    model = network(last=kernel)
    connections, statistics, x = folded(model)
    hidden, last = model[:3](x).detach(), model[3]
    expected = last(hidden)
    quantized(model)
    weights_on(model)
    before = (last(hidden) - expected).mean([0, 2, 3]).detach().abs().max()
    correction = correct_analytically(model, connections.links, statistics)
    after = (last(hidden) - expected).mean([0, 2, 3]).detach().abs().max()
    assert float(after) < 0.03 * float(before)
    assert list(correction.shifts) == ["3.weight"]
    assert correction.refused == {"0.weight": "no batch norm tells the mean of its input"}


class Mixed(nn.Module):
    """Convolution, linear layers and attention in a row, one layer without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear, self.bare = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        self.attn, self.idle = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.bare(self.linear(self.conv(x).relu().flatten(2).transpose(1, 2)).relu())
        out: Tensor = self.attn(tokens + 1, tokens, tokens, need_weights=False)[0]
        return out


def test_empirical_correction_removes_the_mean_error_of_every_layer() -> None:
    torch.manual_seed(0)
    model, batches = Mixed().eval(), [torch.rand(2, 3, 4, 4), torch.rand(3, 3, 5, 5)]
    quantized(model)
    watched = {"conv": (0, 2, 3), "linear": (0, 1), "attn": (0, 1)}

    def run() -> None:
        for batch in batches:
            model(batch)

    def means() -> dict[str, Tensor]:
        """By plain concatenation of all outputs, per channel."""
        kept: dict[str, list[Tensor]] = {name: [] for name in watched}

        def keep(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: object, output: object) -> None:
                tensor = output[0] if isinstance(output, tuple) else output
                assert isinstance(tensor, Tensor)
                kept[name].append((tensor.movedim(1, -1) if name == "conv" else tensor).detach().flatten(0, -2))

            return hook

        handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in watched]
        run()
        for handle in handles:
            handle.remove()
        return {name: torch.cat(values).mean(0) for name, values in kept.items()}

    expected = means()
    weights_on(model)
    before = means()
    correction = correct_empirically(model, run)
    weights_on(model)
    after = means()
    for name, mean in expected.items():
        error = (before[name] - mean).abs().max()
        assert float(error) > 1e-3
        torch.testing.assert_close(after[name], mean, atol=1e-3 * float(error) + 1e-6, rtol=0.0)
    assert list(correction.shifts) == [
        "conv.weight", "linear.weight", "attn.in_proj_weight", "attn.out_proj.weight",
    ]  # fmt: skip
    assert correction.refused == {"bare.weight": "it has no bias", "idle.weight": "it did not run"}


def test_a_correction_that_was_stopped_goes_on_to_the_same_bits() -> None:
    class Memory(Keeper):
        tensors: Mapping[str, Tensor] = MappingProxyType({})

        def kept(self) -> Mapping[str, Tensor]:
            return self.tensors

        def keep(self, tensors: Mapping[str, Tensor]) -> None:
            self.tensors = {name: tensor.clone() for name, tensor in tensors.items()}

    def corrected(keeper: Keeper, *, stop_in_run: int = 0) -> tuple[nn.Module, int]:
        torch.manual_seed(0)
        model, runs = Mixed().eval(), 0
        quantized(model)

        def run() -> None:
            nonlocal runs
            runs += 1
            if runs == stop_in_run:
                raise KeyboardInterrupt
            model(torch.linspace(0, 1, 2 * 3 * 8 * 8).view(2, 3, 8, 8))

        correct_empirically(model, run, keeper=keeper)
        return model, runs

    (whole, runs), keeper = corrected(Keeper()), Memory()
    with pytest.raises(KeyboardInterrupt):
        corrected(keeper, stop_in_run=4)
    again, fewer = corrected(keeper)
    assert (runs, fewer) == (5, 2)  # in float, then once a layer
    for (name, value), other in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(value, other), name


def test_calls_by_keyword_and_single_images_are_corrected_alike() -> None:
    class Keywords(Mixed):
        def forward(self, x: Tensor) -> Tensor:
            tokens = torch.stack([self.conv(input=image).relu().flatten(1).T for image in x])
            tokens = self.bare(input=self.linear(input=tokens).relu())
            out: Tensor = self.attn(query=tokens + 1, key=tokens, value=tokens, need_weights=False)[0]
            return out

    torch.manual_seed(0)
    model, x = Mixed().eval(), torch.rand(2, 3, 8, 8)
    other = Keywords().eval()
    other.load_state_dict(model.state_dict())
    shifts = []
    for network_of in (model, other):
        quantized(network_of)
        shifts.append(correct_empirically(network_of, partial(network_of, x)).shifts)
    assert list(shifts[0]) == list(shifts[1]) and len(shifts[0]) == 4
    for name, shift in shifts[0].items():
        torch.testing.assert_close(shifts[1][name], shift, rtol=1e-4, atol=1e-6)
