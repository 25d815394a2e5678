"""A quantized layer as one function: the numbers of its parts, one after the other, in whatever it is given."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from qdbev.ops import integer_weight_bits
from qdbev.quantization.grid.rectifier import QuantReLU
from qdbev.quantization.layers.grids import InputGrid, WeightGrid
from qdbev.quantization.layers.model_ranges import learn_ranges
from qdbev.quantization.layers.quantizer import Quantizer
from qdbev.quantization.layers.swap import observing, quantize, set_parts
from qdbev.quantization.planning.activation_memory import activation_memory
from qdbev.quantization.planning.policy import make_plan
from qdbev.quantization.ranges.trained_ranges import RANGE_PARAMETERS

PRODUCTS = import_module("qdbev.quantization.layers.products")

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 5), (2, 7, 6)),
    "linear, rows": (lambda: nn.Linear(6, 5, bias=False), (7, 6)),
    "convolution": (lambda: nn.Conv2d(6, 8, 3, padding=1), (2, 6, 5, 5)),
    "convolution, strided groups": (
        lambda: nn.Conv2d(6, 9, (3, 2), stride=(2, 1), padding=(0, 1), dilation=2, groups=3, bias=False),
        (2, 6, 8, 8),
    ),
}
OTHERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "padding in words": (lambda: nn.Conv2d(6, 4, 3, padding="same"), (2, 6, 5, 5)),
    "padding that reflects": (lambda: nn.Conv2d(6, 4, 3, padding=1, padding_mode="reflect"), (2, 6, 5, 5)),
    "one image": (lambda: nn.Conv2d(6, 4, 1), (6, 5, 5)),
    "a vector": (lambda: nn.Linear(6, 5), (6,)),
    "no elements": (lambda: nn.Linear(6, 5), (0, 6)),
}


FORMS: dict[str, dict[str, object]] = {
    "lsq": {"form": "linear"},
    "lsq, unsigned": {"form": "linear", "unsigned": True},
    "lsq+": {"form": "linear", "offset": True},
    "lsq+, logarithms": {"form": "log", "offset": True},
    "lsq+, held": {"offset": True},
    "pact": {"form": "linear", "clip": True},
    "pact, unsigned": {"form": "linear", "clip": True, "unsigned": True},
}


def quantized(
    make: Callable[[], nn.Module],
    shape: tuple[int, ...],
    *,
    learned: bool = False,
    unsigned: bool = False,
    form: str = "",
    offset: bool = False,
    clip: bool = False,
) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model, x = nn.Sequential(make()), torch.randn(shape)
    x = x.relu() if unsigned else x
    plan = make_plan(model, parts={"all": [""]}, weight_bits=4, activation_bits=4)
    quantize(
        model, plan, weights=WeightGrid(follow=False), inputs=InputGrid(may_be_unsigned=unsigned, has_offset=offset)
    )
    with observing(model), torch.no_grad():
        model(x * 0.7 if x.numel() else torch.ones(1, shape[-1]))  # so that something is clamped
    set_parts(model, {"all"})
    if learned or form:
        learn_ranges(model, weights=True, inputs=True, form=form or "log", clip=clip)  # type: ignore[arg-type]
    return model, x


def results(model: nn.Module, x: Tensor, *, reads: bool = True) -> dict[str, Tensor]:
    model.zero_grad()
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_(reads)
    out = model(x)
    out.square().sum().backward()
    grads = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    with torch.no_grad():
        alone = model(x)
    return {**grads, "out": out.detach(), "alone": alone, **({} if x.grad is None else {"x": x.grad})}


def both(
    monkeypatch: pytest.MonkeyPatch, run: Callable[[], dict[str, Tensor]]
) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
    """In one function, from its parts, and how often it was one function."""
    calls, apply = [], PRODUCTS._Product.apply
    with monkeypatch.context() as patch:
        patch.setattr(PRODUCTS._Product, "apply", lambda *values: calls.append(1) or apply(*values))
        ours = {name: value.clone() for name, value in run().items()}
    with monkeypatch.context() as patch:
        patch.setattr(PRODUCTS, "_roundings", lambda *_: None)
        return ours, run(), len(calls)


def check(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if name.endswith(RANGE_PARAMETERS):
            torch.testing.assert_close(value, theirs[name], msg=name)
        else:
            assert torch.equal(value, theirs[name]) and value.stride() == theirs[name].stride(), name


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
def test_one_function_is_its_parts(layer: str, unsigned: bool, learned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = quantized(*LAYERS[layer], learned=learned, unsigned=unsigned)
    ours, theirs, calls = both(monkeypatch, lambda: results(model, x))
    assert calls == 1 and ours["x"].abs().sum() > 0 and (ours["x"] == 0).any()
    check(ours, theirs)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layer", LAYERS)
def test_one_function_is_its_parts_in_every_form_of_a_range(
    layer: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = quantized(*LAYERS[layer], **FORMS[form])  # type: ignore[arg-type]
    ours, theirs, calls = both(monkeypatch, lambda: results(model, x))
    assert calls == 1 and ours["x"].abs().sum() > 0 and (ours["x"] == 0).any()
    assert all(value.any() for name, value in ours.items() if name.endswith(RANGE_PARAMETERS))
    check(ours, theirs)


@pytest.mark.parametrize("form", ["lsq, unsigned", "pact, unsigned"])
def test_it_does_the_backward_pass_of_a_relu_in_every_form(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = quantized(*LAYERS["convolution"], **FORMS[form])  # type: ignore[arg-type]
    model = nn.Sequential(QuantReLU(), model[0])
    x[0, 0] = 0
    noted: list[Tensor] = []
    monkeypatch.setattr("qdbev.quantization.grid.clipped_steps.note_rectified", noted.append)
    results(model, x)
    assert len(noted) == 1 and not noted[0][x <= 0].any()
    monkeypatch.undo()
    check(*both(monkeypatch, lambda: results(model, x))[:2])


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
def test_one_pass_makes_the_input_again_and_lets_the_gradient_through(
    layer: str, learned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid_cpu = import_module("qdbev.quantization.grid.cpu")
    model, x = quantized(*LAYERS[layer], learned=learned)
    names = ("onto_grid", "grad_input", "grad_input_and_log_scale", "recomputed_and_grads")
    passes: list[tuple[str, tuple[int, ...]]] = []

    def noting(name: str, run: Callable[..., object]) -> Callable[..., object]:
        def noted(*tensors: Tensor, **grid: object) -> object:
            passes.append((name, tuple(tensors[-1].shape)))
            return run(*tensors, **grid)

        return noted

    out = model(x.requires_grad_())
    for name in names:
        monkeypatch.setattr(grid_cpu, name, noting(name, getattr(grid_cpu, name)))
    out.sum().backward()
    weight = tuple(model[0].weight.shape)
    back = "grad_input_and_log_scale" if learned else "grad_input"
    assert passes == [("onto_grid", weight), ("recomputed_and_grads", tuple(x.shape)), (back, weight)]


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """However small, products are of integers; how often they were."""
    if not integer_weight_bits():
        pytest.skip("this CPU does not multiply bytes")
    monkeypatch.setattr(PRODUCTS, "_WORTH", 0)
    monkeypatch.setattr(PRODUCTS, "_WHOLE_GROUP", 1)
    seen: list[int] = []
    for product in (PRODUCTS.Linear, PRODUCTS.Convolution):
        run = product.of_bytes
        monkeypatch.setattr(product, "of_bytes", lambda *given, run=run: seen.append(1) or run(*given))
    return seen


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
def test_of_integers_it_is_what_it_is_in_float(layer: str, unsigned: bool, learned: bool, packed: list[int]) -> None:
    model, x = quantized(*LAYERS[layer], learned=learned, unsigned=unsigned)
    ours, taken = results(model, x), len(packed)
    with PRODUCTS.float_products():
        theirs = results(model, x)
    assert taken == len(packed) == 2 and torch.equal(ours["out"], ours["alone"])
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], msg=name, rtol=1e-5, atol=1e-5)
        assert value.stride() == theirs[name].stride(), name


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layer", LAYERS)
def test_of_integers_in_every_form_of_a_range(layer: str, form: str, packed: list[int]) -> None:
    model, x = quantized(*LAYERS[layer], **FORMS[form])  # type: ignore[arg-type]
    ours, taken = results(model, x), len(packed)
    with PRODUCTS.float_products():
        theirs = results(model, x)
    assert taken == len(packed) == 2
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], msg=name, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("bits", "widest", "taken"), [(7, 7, [1]), (8, 7, []), (4, 0, [])])
def test_of_integers_with_one_range_per_weight_tensor_as_wide_as_the_cpu_takes(
    bits: int, widest: int, taken: list[int], packed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PRODUCTS, "integer_weight_bits", lambda: widest)
    model, x = nn.Sequential(nn.Conv2d(6, 4, 3)), torch.randn(2, 6, 5, 5)
    plan = make_plan(model, parts={"all": [""]}, weight_bits=bits, activation_bits=8)
    quantize(model, plan, weights=WeightGrid(granularity="tensor"))
    with observing(model), torch.no_grad():
        model(x)
    set_parts(model, {"all"})
    ours = model(x)
    with PRODUCTS.float_products():
        torch.testing.assert_close(ours, model(x))
    assert packed == taken


@pytest.mark.parametrize(("channels", "out", "taken"), [(32, 32, [1]), (8, 32, []), (32, 8, []), (22, 11, [])])
def test_groups_that_bytes_are_slow_for_stay_float(
    channels: int, out: int, taken: list[int], packed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PRODUCTS, "_WHOLE_GROUP", 16)
    model, x = quantized(lambda: nn.Conv2d(2 * channels, 2 * out, 3, groups=2), (1, 2 * channels, 5, 5))
    model(x)
    assert packed == taken


def test_what_is_no_number_stays_none(packed: list[int]) -> None:
    model, x = quantized(*LAYERS["convolution"])
    x[1, 0, 2, 2] = torch.nan
    out = model(x)
    assert not packed and out[1].isnan().any() and out[0].isfinite().all()


@pytest.mark.parametrize("layer", ["linear", "convolution"])
def test_of_integers_it_keeps_no_more(layer: str, packed: list[int]) -> None:
    model, x = quantized(*LAYERS[layer])
    ours = activation_memory(model, lambda: model(x))
    with PRODUCTS.float_products():
        theirs = activation_memory(model, lambda: model(x))
    assert packed == [1] and ours.kept_bytes == theirs.kept_bytes and ours.peak_bytes <= theirs.peak_bytes


@pytest.mark.parametrize(
    "why",
    [
        "small",
        "small images",
        "one channel",
        "long sums",
        "bits of the input",
        "bits of the weight",
        "type",
        "scales of input channels in the input",
        "scales of input channels in the weight",
    ],
)
def test_where_it_stays_in_float(why: str, packed: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    images, make = (2, 6, 5, 5), lambda: nn.Conv2d(6, 6, 3, groups=6 if why == "one channel" else 1)
    model, x = quantized(make, images) if why in ("small images", "one channel") else quantized(*LAYERS["linear"])
    quantizers = {name: module for name, module in model.named_modules() if isinstance(module, Quantizer)}
    if why == "small":
        monkeypatch.setattr(PRODUCTS, "_WORTH", x.numel() * 5 + 1)
    elif why == "small images":
        monkeypatch.setattr(PRODUCTS, "_WORTH", 2 * 5 * 5 * 6 * 6 * 3 * 3 + 1)
    elif why == "long sums":
        monkeypatch.setattr(PRODUCTS, "_LONGEST", 5)
    elif why == "type":
        model, x = model.double(), x.double()
    elif why.startswith("bits"):
        quantizers[f"0.{why.split()[-1]}_quantizer"].bits = 9
    elif why.startswith("scales"):
        name = f"{why.split()[-1]}_quantizer"
        by_channel = Quantizer(name=name, bits=4, axis=1 if name == "weight_quantizer" else 2, channels=6)
        by_channel.set_range(torch.arange(1.0, 7.0))
        by_channel.state = "on"
        setattr(model[0], name, by_channel)
    model(x)
    assert not packed


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layer", LAYERS)
def test_in_other_types(layer: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = quantized(*LAYERS[layer])
    model[0].weight.data = model[0].weight.data.to(dtype)
    if model[0].bias is not None:
        model[0].bias.data = model[0].bias.data.to(dtype)
    ours, theirs, calls = both(monkeypatch, lambda: results(model, x.to(dtype)))
    assert calls == 1 and ours["out"].dtype == dtype
    check(ours, theirs)


def test_channels_last(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = quantized(*LAYERS["convolution"], learned=True)
    model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    ours, theirs, _ = both(monkeypatch, lambda: results(model, x))
    assert ours["x"].is_contiguous(memory_format=torch.channels_last)
    check(ours, theirs)


@pytest.mark.parametrize("layer", ["linear", "convolution"])
@pytest.mark.parametrize("frozen", ["", "x", "weight", "bias", "x weight", "weight bias", "x weight bias"])
@pytest.mark.parametrize("learned", [False, True])
def test_some_of_it_may_be_frozen(layer: str, frozen: str, learned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = quantized(*LAYERS[layer], learned=learned)
    for name in set(frozen.split()) - {"x"}:
        getattr(model[0], name).requires_grad_(False)
    if frozen == "x weight bias" and not learned:
        assert not model(x).requires_grad
        return
    check(*both(monkeypatch, lambda: results(model, x, reads="x" not in frozen.split()))[:2])


@pytest.mark.parametrize("layer", OTHERS)
def test_what_it_is_not_made_for_is_composed(layer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = quantized(*OTHERS[layer])
    ours, theirs, calls = both(monkeypatch, lambda: results(model, x))
    assert calls == 0
    check(ours, theirs)


def test_every_form_is_compiled_in_one_graph_with_the_same_gradients() -> None:
    kinds: list[dict[str, object]] = [{}, {"learned": True}, *FORMS.values()]
    model = nn.Sequential(*(quantized(lambda: nn.Linear(6, 6), (2, 7, 6), **kind)[0] for kind in kinds))  # type: ignore[arg-type]
    x = torch.randn(2, 7, 6)
    ours, theirs = results(model, x), results(torch.compile(model, fullgraph=True, backend="aot_eager"), x)
    assert [name.removeprefix("_orig_mod.") for name in theirs] == list(ours)
    for mine, other in zip(ours.values(), theirs.values(), strict=True):
        torch.testing.assert_close(other, mine, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["", "log", *FORMS])
@pytest.mark.parametrize("layer", ["linear", "convolution"])
def test_a_gradient_of_a_gradient(layer: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = quantized(*LAYERS[layer], **FORMS.get(form, {"form": form}))  # type: ignore[arg-type]

    def run() -> dict[str, Tensor]:
        wanted = [x.requires_grad_(), *model.parameters()]
        first = torch.autograd.grad(model(x).pow(3).sum(), wanted, create_graph=True)
        total = torch.stack([grad.square().sum() for grad in first]).sum()
        second = torch.autograd.grad(total, wanted, allow_unused=True, materialize_grads=True)
        return {f"{order} {place}": grad for order, all in enumerate((first, second)) for place, grad in enumerate(all)}

    ours, theirs, calls = both(monkeypatch, run)
    assert calls == 1 and ours["1 1"].abs().sum() > 0
    for name, value in ours.items():
        order = 1e-6 * value.detach().abs().max().item() if form in FORMS else 1e-5  # of sums
        torch.testing.assert_close(value, theirs[name], msg=name, rtol=1.3e-6, atol=order)


def test_its_result_can_be_changed_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for make, shape in LAYERS.values():
        model, x = quantized(make, shape)
        model.append(nn.ReLU(inplace=True))
        ours, theirs, calls = both(monkeypatch, lambda model=model, x=x: results(model, x))  # type: ignore[misc]
        assert calls == 1 and (ours["out"] >= 0).all()
        check(ours, theirs)


def test_saved_tensors_may_come_back_laid_out_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = quantized(*LAYERS["convolution"], learned=True)
    x = x.to(memory_format=torch.channels_last)

    def run() -> dict[str, Tensor]:
        with torch.autograd.graph.saved_tensors_hooks(lambda saved: saved, lambda saved: saved.contiguous().clone()):
            return results(model, x)

    ours, theirs, _ = both(monkeypatch, run)
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], msg=name)


def test_a_range_that_moves_does_so_once() -> None:
    for hooked in (False, True):
        quantizers = [
            Quantizer(name="input", bits=4, ema_momentum=0.5),
            Quantizer(name="weight", bits=4, axis=0, channels=2, follow=True),
        ]
        quantizers[0].set_range(torch.tensor(1.0))
        for quantizer in quantizers:
            quantizer.state = "on"
        if hooked:
            quantizers[1].register_forward_hook(lambda module, inputs, output: None)
        layer = SimpleNamespace(
            weight=torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True),
            bias=None,
            input_quantizer=quantizers[0],
            weight_quantizer=quantizers[1],
        )
        PRODUCTS.quantized_product(PRODUCTS.Linear(), torch.full((1, 2), 3.0), layer)
        assert quantizers[0].range.item() == pytest.approx(2.0), hooked
        assert quantizers[1].range.tolist() == [2.0, 4.0], hooked


def test_a_missing_range_is_named() -> None:
    model, x = quantized(*LAYERS["linear"])
    model[0].input_quantizer = Quantizer(name="layer.input", bits=4)
    model[0].input_quantizer.state = "on"
    with pytest.raises(ValueError, match=r"layer\.input has no range"):
        model(x)


def test_a_hook_runs_once_where_gradients_have_a_graph() -> None:
    model, x = quantized(*LAYERS["linear, rows"])
    weight = model[0].weight
    weight.register_hook(lambda gradient: gradient * 2)
    plain, graphed = (torch.autograd.grad(model(x).sum(), weight, create_graph=graph)[0] for graph in (False, True))
    torch.testing.assert_close(plain, graphed)


def test_half_scales_are_read_as_numbers() -> None:
    model, x = quantized(*LAYERS["linear, rows"])
    expected = model(x)
    for quantizer in model.modules():
        if isinstance(quantizer, Quantizer):
            quantizer.to(torch.bfloat16)
    torch.testing.assert_close(model(x), expected, rtol=0.05, atol=0.3)  # scales of eight bits, a step apart


def test_a_scale_that_changed_is_noticed_where_no_gradient_goes_to_the_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PRODUCTS, "_roundings", lambda *_: None)
    model, x = quantized(*LAYERS["linear, rows"])
    out = model(x)
    model[0].input_quantizer.set_range(torch.tensor(9.0))
    with pytest.raises(RuntimeError, match="modified in place"):
        out.sum().backward()
