"""Every rounding method on inputs that break sums of squares: constant, nearly so, huge, tiny, one sample, rank one."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from qdbev.quantization import (
    InputMoments,
    Quantizer,
    WeightGrid,
    adaptive_rounding,
    compensate_rounding,
    make_plan,
    observing,
    quantize,
    quantized_layers,
    reconstruct,
    set_parts,
)
from qdbev.quantization.rounding.adaround import learned
from qdbev.quantization.rounding.gptq import compensated
from qdbev.quantization.rounding.learned_rounding import Descent
from qdbev.quantization.rounding.moments import CONSTANT
from qdbev.quantization.rounding.quadratic import ReconstructionMoments

COLUMNS = {
    "dead": lambda noise: noise * 0,
    "constant": lambda noise: noise * 0 + 3.7,
    "nearly constant": lambda noise: 300 * (1 + 1e-7 * noise),
    "far from zero": lambda noise: 1e4 + noise,
    "huge": lambda noise: 1e25 * noise,
    "tiny": lambda noise: 1e-25 * noise,
    "ordinary": lambda noise: noise,
}
KINDS = st.one_of(
    st.sampled_from([*COLUMNS, "one sample", "rank one"]).map(lambda kind: [kind]),
    st.lists(st.sampled_from(sorted(COLUMNS)), min_size=5, max_size=5),
)


def _inputs(kinds, *, seed, samples=24, width=5):
    """(N, I): all columns of one kind, or a kind per column."""
    noise = torch.randn(samples, width, generator=torch.Generator().manual_seed(seed))
    if kinds == ["rank one"]:
        return noise[:, :1] * noise[:1]
    if kinds == ["one sample"]:
        return noise[:1]
    kinds = kinds * width if len(kinds) == 1 else kinds
    return torch.stack([COLUMNS[kind](column) for kind, column in zip(kinds, noise.T, strict=True)], 1)


class Network(nn.Module):
    def __init__(self, *, bias):
        super().__init__()
        self.layers = nn.ModuleList([nn.Sequential(nn.Linear(5, 4, bias=bias), nn.ReLU(), nn.Linear(4, 3, bias=bias))])

    def forward(self, x):
        return self.layers[0](x)


def _network(x, *, bias):
    torch.manual_seed(0)
    model = Network(bias=bias).eval()
    plan = make_plan(model, parts={"all": [""]}, weight_bits=3, activation_bits=8)
    quantize(model, plan, weights=WeightGrid(follow=False))
    with observing(model), torch.no_grad():
        model(x)
    return model


METHODS = {
    "gptq": lambda model, run: compensate_rounding(model, lambda: run(model), ["all"]),
    "adaround": lambda model, run: adaptive_rounding(
        model, copy.deepcopy(model), run, ["all"], iterations=8, learning_rate=0.1
    ),
    "adaround towards float": lambda model, run: adaptive_rounding(
        model, copy.deepcopy(model), run, ["all"], iterations=8, learning_rate=0.1, asymmetric=True
    ),
    "brecq": lambda model, run: reconstruct(model, copy.deepcopy(model), run, ["all"], iterations=8, learning_rate=0.1),
    "qdrop": lambda model, run: reconstruct(
        model, copy.deepcopy(model), run, ["all"], iterations=8, learning_rate=0.1, drop=0.5
    ),
}


@pytest.mark.parametrize("method", METHODS)
@settings(deadline=None, max_examples=25)
@given(kinds=KINDS, seed=st.integers(0, 10**6), bias=st.booleans())
def test_the_result_is_finite_on_its_grid_and_no_worse_than_nearest(method, kinds, seed, bias):
    x = _inputs(kinds, seed=seed)
    model = _network(x, bias=bias)
    done = METHODS[method](model, lambda network: network(x))
    assert not done.refused and all(math.isfinite(error) for pair in done.errors.values() for error in pair)
    assert all(after <= nearest for nearest, after in done.errors.values())
    assert all(value.isfinite().all() for value in model.state_dict().values())
    set_parts(model, ["all"])
    assert model(x).isfinite().all()
    if method not in ("brecq", "qdrop") or not done.unchanged:
        for layer in quantized_layers(model).values():
            torch.testing.assert_close(layer.weight_quantizer(layer.weight), layer.weight, rtol=1e-6, atol=0)


@pytest.mark.parametrize("method", ["gptq", "adaround towards float"])
def test_constant_inputs_give_the_output_of_the_float_network(method):
    x = _inputs(["constant"], seed=0)
    model = _network(x, bias=True)
    set_parts(model, [])
    expected = model(x)
    METHODS[method](model, lambda network: network(x))
    set_parts(model, ["all"])
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=50)
@given(kinds=KINDS, seed=st.integers(0, 10**6))
def test_moments_are_those_of_centred_values(kinds, seed):
    x = _inputs(kinds, seed=seed)
    moments = ReconstructionMoments()
    for rows in x.split(7):
        moments.add(rows, rows)
    centred = x.double() - x.double().mean(0)
    variance = centred.square().mean(0)
    varies = variance > CONSTANT * x.double().square().mean(0)
    expected = centred.T @ centred / len(x) * torch.outer(varies, varies)
    limit = 1e-3 * torch.outer(variance.sqrt(), variance.sqrt())
    form = moments.quadratic(centred=True)
    for covariance in (moments.inputs.covariance, form.cross_OI * varies[:, None]):
        assert ((covariance - expected).abs() <= limit).all()


def test_layers_whose_inputs_all_lie_far_from_zero_have_a_cholesky_factor():
    x = 4096 + torch.randn(2000, 96, generator=torch.Generator().manual_seed(0)) @ torch.randn(96, 96) / 8
    moments = InputMoments()
    moments.add(x)
    plain = (x.T @ x).double() / len(x) - torch.outer(moments.mean, moments.mean)
    damping = 0.01 * torch.eye(96, dtype=torch.float64)
    assert torch.linalg.eigvalsh(plain + damping * plain.diagonal().mean()).min() < 0  # what was computed before
    covariance = moments.covariance
    assert torch.linalg.eigvalsh(covariance + damping * covariance.diagonal().mean()).min() > 0


def _toy(seed):
    """A weight, its quantizer and inputs that resemble each other."""
    generator = torch.Generator().manual_seed(seed)
    weight, x = torch.randn(4, 6, generator=generator), torch.randn(60, 6, generator=generator).cumsum(1)
    quantizer = Quantizer(name="toy", bits=3, axis=0, channels=4)
    quantizer.set_range(1.05 * weight.abs().amax(1))  # -r_max itself lies on a tie
    moments = ReconstructionMoments()
    moments.add(x, x @ weight.T)
    return weight, quantizer, moments.quadratic(centred=True)


def _rounded(method, weight, *, quantizer, form):
    if method == "gptq":
        scale_O1 = quantizer.scale[:, None]
        return compensated(weight, quantizer=quantizer, scale_O1=scale_O1, moment_II=form.moment_II, damping=0.01)
    return learned(weight, quantizer=quantizer, scale=quantizer.scale, moments=form, descent=Descent(40, 0.1))[0]


@pytest.mark.parametrize("method", ["gptq", "adaround"])
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), power=st.sampled_from([-180, -60, 60, 180]))
def test_the_size_of_the_inputs_changes_no_rounding(method, seed, power):
    weight, quantizer, form = _toy(seed)
    larger = type(form)(*(value * 2.0**power for value in form))
    made, expected = (_rounded(method, weight, quantizer=quantizer, form=f) for f in (larger, form))
    assert torch.equal(made, expected)


@pytest.mark.parametrize("method", ["gptq", "adaround"])
@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), dead=st.integers(0, 5))
def test_what_reads_a_dead_input_rounds_to_nearest(method, seed, dead):
    weight, quantizer, form = _toy(seed)
    moment_II, cross_OI, power_O = (value.clone() for value in form)
    moment_II[dead], moment_II[:, dead], cross_OI[:, dead] = 0, 0, 0
    made = _rounded(method, weight, quantizer=quantizer, form=type(form)(moment_II, cross_OI, power_O))
    quantizer.state = "on"
    torch.testing.assert_close(made[:, dead].float(), quantizer(weight)[:, dead])


def test_indefinite_moments_are_damped_until_they_have_a_factor():
    weight, quantizer, form = _toy(0)
    indefinite = form._replace(moment_II=form.moment_II - 0.5 * form.moment_II.diagonal().mean() * torch.eye(6))
    assert torch.linalg.eigvalsh(indefinite.moment_II).min() < 0
    assert _rounded("gptq", weight, quantizer=quantizer, form=indefinite).isfinite().all()
    unknown = form._replace(moment_II=form.moment_II * torch.nan)
    quantizer.state = "on"
    made = _rounded("gptq", weight, quantizer=quantizer, form=unknown)
    torch.testing.assert_close(made.float(), quantizer(weight))


def test_a_layer_that_runs_on_nothing_did_not_run():
    model = _network(torch.randn(4, 5), bias=True)
    done = compensate_rounding(model, lambda: model(torch.zeros(0, 5)), ["all"])
    assert set(done.refused.values()) == {"it did not run"} and not done.errors
    assert all(value.isfinite().all() for value in model.state_dict().values())


class Single(nn.Module):
    """A convolution and a linear layer, which take a batch as well as a single image."""

    def __init__(self):
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)

    def forward(self, image):
        return self.last(self.conv(image).relu().amax((-1, -2)))


@pytest.mark.parametrize("method", ["gptq", "adaround"])
def test_single_images_and_vectors_round_as_a_batch_of_them(method):
    images, weights = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)), []
    for batches in (list(images), [images]):
        torch.manual_seed(0)
        model = Single().eval()
        plan = make_plan(model, parts={"all": [""]}, weight_bits=3, activation_bits=8)
        quantize(model, plan, weights=WeightGrid(follow=False))
        with torch.no_grad(), observing(model):
            model(images)
        done = METHODS[method](model, lambda network, batches=batches: [network(batch) for batch in batches])
        assert len(done.errors) == 2
        weights.append(torch.cat([model.conv.weight.flatten(), model.last.weight.flatten()]))
    torch.testing.assert_close(*weights)
