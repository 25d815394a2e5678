"""One call for any module: equal to the steps it takes, on networks of many kinds; what it says; what it refuses."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from qdbev.quantization import (
    InputGrid,
    WeightGrid,
    fold_batchnorm,
    make_plan,
    observing,
    pack_model,
    quantize,
    quantize_model,
    quantized_layers,
    set_parts,
    size_bytes,
    summary,
)


class Pyramid(nn.Module):
    """Convolutions with norms, a transposed one, a skip, and a head for training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.down = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)
        self.out, self.auxiliary = nn.Conv2d(8, 2, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Any:
        fine = self.stem(x)
        mixed = fine + self.up(self.down(F.max_pool2d(fine, 2)))
        return {"out": self.out(mixed), "auxiliary": self.auxiliary(mixed)} if self.training else self.out(mixed)


class Tied(nn.Module):
    """A table that is the head too, and one layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.first = nn.Embedding(20, 16), nn.Linear(16, 16)
        self.second, self.head = self.first, nn.Linear(16, 20, bias=False)
        self.head.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.head(self.second(F.relu(self.first(self.table(tokens)))))
        return out


class Attention(nn.Module):
    """Keywords alone, and attention of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.attention = nn.Linear(8, 8), nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, *, tokens: Tensor) -> Tensor:
        x = self.project(tokens)
        out: Tensor = self.attention(x, x, x)[0]
        return out


class Recurrent(nn.Module):
    """An LSTM between layers."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.recurrent, self.after = nn.Linear(8, 8), nn.LSTM(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.after(self.recurrent(self.before(x))[0])
        return out


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


def parametrized() -> nn.Module:
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(8, 8)), nn.ReLU(), nn.Linear(8, 2))


def volume() -> nn.Module:
    return nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3))


def signal(sides: int) -> nn.Module:
    """A transposed convolution over one side or three, its norm, and a layer that is quantized."""
    transposed, norm = {1: (nn.ConvTranspose1d, nn.BatchNorm1d), 3: (nn.ConvTranspose3d, nn.BatchNorm3d)}[sides]
    last = nn.Linear({1: 18, 3: 216}[sides], 3)
    return nn.Sequential(transposed(4, 6, 2, stride=2), norm(6), nn.ReLU(), nn.Flatten(2), last)


class Unet(nn.Module):
    """Two steps down and up again with skips; one step in groups, norms behind the transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList(_level(inputs, outputs) for inputs, outputs in ((3, 8), (8, 16), (16, 16)))
        self.ups = nn.ModuleList([_up(16, 16, groups=2), _up(16 + 16, 8, groups=1)])
        self.merge, self.out = _level(8 + 8, 8), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.levels[0](x)
        middle = self.levels[1](F.max_pool2d(fine, 2))
        mixed = torch.cat([middle, self.ups[0](self.levels[2](F.max_pool2d(middle, 2)))], 1)
        out: Tensor = self.out(self.merge(torch.cat([fine, self.ups[1](mixed)], 1)))
        return out


def _level(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _up(inputs: int, outputs: int, *, groups: int) -> nn.Module:
    layer = nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1, groups=groups)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def encoder() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)


def transformer() -> nn.Module:
    return nn.Transformer(16, 2, 1, 1, 32, batch_first=True)


class Padded(nn.Module):
    """A padded sequence, which torch's encoder packs."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1)

    def forward(self, x: Tensor) -> Tensor:
        padding = torch.arange(x.shape[1]).expand(x.shape[:2]) > 2
        out: Tensor = self.encoder(x, src_key_padding_mask=padding)[:, :3]
        return out


def normed() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3))


def of(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(shape)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any], int, str]] = {
    "perceptron": (perceptron, of(4, 8), 2, ""),
    "pyramid": (Pyramid, of(2, 3, 16, 16), 4, "prediction does not run it"),
    "tied": (Tied, lambda: torch.randint(0, 20, (2, 7)), 3, ""),
    "attention": (Attention, lambda: {"tokens": torch.randn(2, 5, 8)}, 2, ""),
    "recurrent": (Recurrent, of(5, 2, 8), 2, "LSTM"),
    "parametrized": (parametrized, of(4, 8), 1, "parametrization"),
    "volume": (volume, of(2, 1, 4, 4, 4), 1, "Conv3d"),
    "signal": (lambda: signal(1), of(2, 4, 9), 1, "ConvTranspose1d"),
    "growing volume": (lambda: signal(3), of(2, 4, 3, 3, 3), 1, "ConvTranspose3d"),
    "u-net": (Unet, of(2, 3, 16, 16), 7, ""),
    "encoder": (encoder, of(2, 5, 16), 6, "LayerNorm"),
    "transformer": (transformer, lambda: (torch.randn(2, 5, 16), torch.randn(2, 4, 16)), 7, "LayerNorm"),
    "padded": (Padded, of(2, 5, 8), 3, "LayerNorm"),
    "half with a norm": (lambda: normed().bfloat16(), lambda: torch.randn(2, 3, 8, 8).bfloat16(), 2, ""),
    "half": (lambda: perceptron().bfloat16(), lambda: torch.randn(4, 8).bfloat16(), 2, ""),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_any_network_is_quantized_runs_trains_and_packs(name: str) -> None:
    torch.manual_seed(0)
    make, batch, layers, in_float = NETWORKS[name]
    model, batches = make().train(), [batch() for _ in range(3)]
    made = quantize_model(model, batches)
    assert all(module.training for module in model.modules())  # as it came
    assert (sum(made.kinds.values()), made.on) == (layers, made.quantizers)
    assert in_float in " ".join(made.in_float.values())
    assert made.change is not None and 0 < made.change < 0.5
    first = batches[0]
    returned = (
        model(**first) if isinstance(first, dict) else model(*first) if isinstance(first, tuple) else model(first)
    )
    values = returned.values() if isinstance(returned, dict) else [returned]
    sum(value.float().square().sum() for value in values).backward()
    assert all(
        weight.value.grad is not None
        for layer in quantized_layers(model).values()
        for weight in layer.quantized_weights()
    )
    assert size_bytes(pack_model(model)) == pytest.approx(made.packed_bytes, abs=64)


def test_it_is_the_steps_it_stands_for() -> None:
    torch.manual_seed(0)
    model, batches = Pyramid().eval(), [torch.randn(2, 3, 16, 16) for _ in range(3)]
    other = copy.deepcopy(model)
    made = quantize_model(model, batches, weight_bits=3, activation_bits=5)
    folding = fold_batchnorm(other, lambda: other(batches[0]))
    unrun = {"auxiliary": "not run"}
    plan = make_plan(other, parts={"all": [""]}, weight_bits=3, activation_bits=5, unrun=unrun)
    quantize(other, plan, weights=WeightGrid(observer="mse"), inputs=InputGrid(observer="mse", may_be_unsigned=True))
    with observing(other), torch.no_grad():
        for batch in batches:
            other(batch)
    set_parts(other, plan.parts)
    assert made.folded == len(folding.pairs) == 2
    assert torch.equal(model(batches[1]), other(batches[1]))


def test_more_bits_change_less() -> None:
    torch.manual_seed(0)
    model, batches = perceptron(), [torch.randn(16, 8) for _ in range(4)]
    changes = [
        quantize_model(copy.deepcopy(model), batches, weight_bits=bits, activation_bits=bits).change
        for bits in (3, 8, 16)
    ]
    assert changes[0] > 0.05 > changes[1] > 0.001 > changes[2]  # type: ignore[operator]


def test_the_summary_says_it_in_lines() -> None:
    torch.manual_seed(0)
    model = Pyramid()
    lines = str(quantize_model(model, [torch.randn(2, 3, 16, 16)])).splitlines()
    assert lines[0] == "W4A6 in 4 layers (3 conv2d, 1 transposed_conv); 8 quantizers, all on"
    assert lines[1].startswith("4.33 kB in float32, ")  # 1,108 weights and biases
    assert lines[2] == "batch norms folded: 2"
    assert "in float: auxiliary (prediction does not run it)" in lines


def test_quantizers_of_which_none_is_on_are_warned_of() -> None:
    model = perceptron()
    quantize_model(model, [torch.randn(4, 8)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert summary(model).on == 4
    set_parts(model, [])
    with pytest.warns(UserWarning, match="4 quantizers and none is on, so it computes in float: set_parts"):
        assert "NONE OF THEM ON" in str(summary(model))


def test_a_batch_that_the_model_does_not_take_is_explained_and_a_call_takes_it() -> None:
    model, batches = perceptron(), [[torch.randn(4, 8), torch.tensor([0, 1])]]
    with pytest.raises(
        ValueError, match=r"does not take a batch as it comes .* call=lambda model, batch: model\(batch"
    ):
        quantize_model(model, batches)
    assert quantize_model(model, batches, call=lambda model, batch: model(batch[0])).on == 4


def test_layers_stay_in_float_by_choice() -> None:
    made = quantize_model(perceptron(), [torch.randn(4, 8)], float_layers=["2"])
    assert made.kinds == {"linear": 1}
    assert "float_layers" in made.in_float["2"]


@pytest.mark.parametrize(
    ("make", "batches", "why"),
    [
        (perceptron, [], "no batch to calibrate with"),
        (nn.ReLU, [torch.randn(4, 8)], "nothing to quantize"),
        (lambda: torch.jit.script(nn.Linear(8, 8)), [torch.randn(4, 8)], "a scripted model"),
        (
            lambda: nn.Sequential(torch.jit.script(nn.Linear(8, 8)), nn.Linear(8, 2)),
            [torch.randn(4, 8)],
            "0 is scripted and has no layers to change",
        ),
    ],
)
def test_what_cannot_be_quantized_is_refused(make: Callable[[], nn.Module], batches: list[Tensor], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        quantize_model(make(), batches)


def test_a_model_is_not_quantized_twice() -> None:
    model = perceptron()
    quantize_model(model, [torch.randn(4, 8)])
    with pytest.raises(ValueError, match="quantized already"):
        quantize_model(model, [torch.randn(4, 8)])
