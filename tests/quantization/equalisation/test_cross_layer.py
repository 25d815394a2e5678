"""Equalisation: which layers pair and why others do not, equal ranges on both sides, outputs that do not change."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qdbev.quantization import Pair, equalise, find_connections, fold_batchnorm, make_plan, quantize
from qdbev.quantization.equalisation.cross_layer import incoming_range, outgoing_range


def conv(inputs: int, outputs: int, size: int = 1, **others: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, **others)


def uneven(model: nn.Module) -> nn.Module:
    """Channels of very different magnitude, and biases that are not zero."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
            parameter.mul_(torch.exp(torch.randn(len(parameter))).view(-1, *[1] * (parameter.ndim - 1)))
    return model.eval()


def assert_equalised(model: nn.Module, pairs: tuple[Pair, ...], *, share: float = 1e-3) -> None:
    """The largest magnitude of every channel, found channel by channel, is the same on both sides."""
    for pair in pairs:
        first = outgoing_range(model, pair.first)
        seconds = torch.stack([incoming_range(model, second) for second in pair.seconds]).amax(0)
        alive = (first > 0) & (seconds > 0)
        assert bool(alive.any())
        torch.testing.assert_close(first[alive], seconds[alive], rtol=share, atol=0.0)


def test_by_hand() -> None:
    # r1 = 8, r2 = 2: s = sqrt(16) / 2 = 2, so 8 -> 4, bias 6 -> 3, 2 -> 4
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
    for tensor, value in ((model[0].weight, 8.0), (model[0].bias, 6.0), (model[2].weight, -2.0), (model[2].bias, 5.0)):
        nn.init.constant_(tensor, value)
    assert equalise(model, [Pair("0", ("2",))])["0"].tolist() == [2.0]
    assert [model[0].weight.item(), model[0].bias.item()] == [4.0, 3.0]
    assert [model[2].weight.item(), model[2].bias.item()] == [-4.0, 5.0]


def test_ranges_are_taken_per_channel() -> None:
    model = nn.Sequential(conv(2, 4, 3), conv(4, 6, 3, groups=2))
    nn.init.constant_(model[1].weight, 0.0)
    with torch.no_grad():
        model[1].weight[1, 0, 2, 2] = -3.0  # group 0 reads channels 0 and 1, group 1 channels 2 and 3
        model[1].weight[4, 1, 0, 0] = 5.0
    assert incoming_range(model, "1").tolist() == [3.0, 0.0, 0.0, 5.0]
    assert outgoing_range(model, "0").tolist() == [model[0].weight[row].abs().max().item() for row in range(4)]


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], list[Pair]]] = {
    "linear": (
        lambda: nn.Sequential(nn.Linear(5, 7), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(7, 6), nn.Linear(6, 3)),
        (4, 5),
        [Pair("0", ("3",)), Pair("3", ("4",))],
    ),
    "convolutions, one per channel": (
        lambda: nn.Sequential(conv(3, 8, 3), nn.ReLU(), conv(8, 8, 3, groups=8), nn.LeakyReLU(), conv(8, 4)),
        (2, 3, 9, 9),
        [Pair("0", ("2",)), Pair("2", ("4",))],
    ),
    "pooling": (
        lambda: nn.Sequential(conv(3, 8), nn.MaxPool2d(3, 2, padding=1), conv(8, 6), nn.AvgPool2d(2), conv(6, 4)),
        (2, 3, 9, 9),
        [Pair("0", ("2",)), Pair("2", ("4",))],
    ),
    "attention": (lambda: Attention(), (2, 5, 8), [Pair("attn", ("attn.out_proj",))]),
    "two readers": (lambda: TwoReaders(), (2, 3, 6, 6), [Pair("first", ("left", "right"))]),
}


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.attn(x, x, x + 1)[0]
        return out


class TwoReaders(nn.Module):
    """As the stem of a ResNet: pooled, then read by the first convolution and by the downsampling one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.left, self.right = conv(3, 5), conv(5, 4), conv(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.first(x).relu_(), 2)
        return self.left(x) + self.right(x).relu()


@pytest.mark.parametrize("name", MODELS)
def test_pairs_get_equal_ranges_and_outputs_stay(name: str) -> None:
    make, shape, pairs = MODELS[name]
    model, x = uneven(make()), torch.randn(shape)
    expected = model(x)
    found = find_connections(model, lambda: model(x))
    assert list(found.pairs) == pairs
    equalise(model, found.pairs)
    assert_equalised(model, found.pairs)
    torch.testing.assert_close(model(x), expected, rtol=1e-5, atol=1e-5 * float(expected.detach().abs().max()))


class Refused(nn.Module):
    """A first layer whose output goes where ``use`` says, beside a second that reads it."""

    def __init__(self, use: Callable[[Refused, Tensor], object]) -> None:
        super().__init__()
        self.first, self.second, self.other, self.use = conv(3, 3), conv(3, 3), conv(3, 3), use
        self.norm, self.linear = nn.BatchNorm2d(3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> object:
        return self.use(self, self.first(x))


REFUSED: dict[str, tuple[Callable[[Refused, Tensor], object], str]] = {
    "another function": (lambda m, y: m.second(F.hardtanh(y, 0, 6)), "hardtanh reads its output"),
    "a norm": (lambda m, y: m.second(m.norm(y)), "batch_norm.* reads its output"),
    "a residual": (lambda m, y: m.second(y.relu()) + y, "add reads its output"),
    "a residual after ReLU, in place": (lambda m, y: m.second(y.relu_()).add_(y), "add_ reads its output"),
    "a view": (lambda m, y: m.second(y.relu()) + y[:, :1], "slice.* reads its output"),
    "the outside": (lambda m, y: (y, m.second(y.relu())), "the outside reads its output"),
    "nothing": (lambda m, y: None, "no layer reads its output"),
    "a reader of two": (lambda m, y: m.second(y) + m.second(m.other(y)), "second also reads something else"),
    "another axis": (lambda m, y: m.linear(y), "linear has its channels on another axis"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_must_not_pair_says_why(name: str) -> None:
    use, reason = REFUSED[name]
    model, x = Refused(use).eval(), torch.randn(1, 3, 3, 3)
    found = find_connections(model, lambda: model(x))
    assert "first" not in [pair.first for pair in found.pairs]
    assert re.search(reason, found.refused["first"]), found.refused["first"]


def test_what_was_written_to_is_no_longer_the_layers_output() -> None:
    def use(model: Refused, y: Tensor) -> object:
        y[:, :1].mul_(2)
        return model.second(y)

    model, x = Refused(use).eval(), torch.randn(1, 3, 3, 3)
    assert find_connections(model, lambda: model(x)).links == {}


def test_a_shared_weight_is_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.Sigmoid(), nn.Linear(3, 3))
    model[4].weight = model[2].weight
    found = find_connections(model, lambda: model(torch.randn(2, 3)))
    assert found.pairs == () and found.refused["0"] == "2 shares its weight with another layer"


def test_an_attention_whose_last_projection_is_used_elsewhere_is_refused() -> None:
    class Elsewhere(nn.Module):
        def __init__(self, *, shared: bool) -> None:
            super().__init__()
            self.attn, self.other = (nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(2))
            if shared:
                self.other.out_proj = self.attn.out_proj

        def forward(self, x: Tensor) -> Tensor:
            x = self.attn(x, x, x)[0]
            out: Tensor = self.attn.out_proj(self.other(x, x, x)[0])
            return out

    for shared, other in ((True, "attn and other have one out_proj"), (False, "")):
        model, x = Elsewhere(shared=shared).eval(), torch.randn(2, 3, 8)
        found = find_connections(model, partial(model, x))
        assert found.refused["attn"] == (other or "attn.out_proj is also called by itself")
        assert found.refused.get("other", "") == other
        expected = model(x)
        equalise(model, found.pairs)
        torch.testing.assert_close(model(x), expected)


def test_stated_pairs_are_taken_in_place_of_what_was_seen() -> None:
    def use(model: Refused, y: Tensor) -> Tensor:
        out: Tensor = model.second(y.flatten(2).unflatten(2, (3, 3)))
        return out

    model, x = uneven(Refused(use)), torch.randn(1, 3, 3, 3)
    assert find_connections(model, lambda: model(x)).pairs == ()
    expected = model(x)
    found = find_connections(model, lambda: model(x), stated=[("first", "second")])
    assert found.pairs == (Pair("first", ("second",)),) and "first" not in found.refused
    equalise(model, found.pairs)
    assert_equalised(model, found.pairs)
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize(
    ("stated", "complaint"),
    [([("first", "norm")], "names norm, which is no"), ([("first", "second"), ("first", "other")], "first is in two")],
)
def test_impossible_statements_are_refused(stated: list[tuple[str, str]], complaint: str) -> None:
    model, x = Refused(lambda m, y: m.second(y)), torch.randn(1, 3, 3, 3)
    with pytest.raises(ValueError, match=complaint):
        find_connections(model, lambda: model(x), stated=stated)


def test_other_numbers_of_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="0 has 4 output channels and 1 3 input channels"):
        equalise(nn.Sequential(nn.Linear(2, 4), nn.Linear(3, 2)), [Pair("0", ("1",))])


def test_a_quantized_model_is_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    quantize(model, make_plan(model, parts={"all": ["0", "1"]}, weight_bits=4, activation_bits=8))
    with pytest.raises(ValueError, match="quantized already"):
        find_connections(model, lambda: model(torch.randn(1, 3)))


def test_a_dead_channel_keeps_its_scale_and_steps_are_bounded() -> None:
    model = nn.Sequential(nn.Linear(1, 3, bias=False), nn.Linear(3, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.0], [1e-20], [1.0]]))
        model[1].weight.copy_(torch.tensor([[1.0, 1.0, 1.0]]))
    assert equalise(model, [Pair("0", ("1",))], sweeps=1)["0"].tolist() == [1.0, 1e-6, 1.0]


def test_looking_changes_nothing() -> None:
    make, shape, _ = MODELS["linear"]
    model, x = make().train(), torch.randn(shape)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    find_connections(model, lambda: model(x))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("deformable", [False, True])
def test_resnet50_of_mmdet(deformable: bool) -> None:
    backbones = pytest.importorskip("mmdet.models.backbones")
    extra = {"dcn": {"type": "DCNv2", "deform_groups": 1}, "stage_with_dcn": (False, True, False, False)}
    torch.manual_seed(0)
    model = backbones.ResNet(50, base_channels=16, **(extra if deformable else {}))
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias):
                nn.init.normal_(tensor, std=0.3)
            for tensor in (module.running_var, module.weight):
                nn.init.uniform_(tensor, 0.3, 2.0)
    for name, parameter in model.named_parameters():
        if "conv_offset" in name:
            nn.init.normal_(parameter, std=0.02)
    x = torch.randn(1, 3, 64, 64)
    fold_batchnorm(model, lambda: model(x))
    expected = model(x)
    found = find_connections(model, lambda: model(x))
    inside = {
        (f"layer{stage}.{block}", number)
        for stage, blocks in enumerate((3, 4, 6, 3), 1)
        for block in range(blocks)
        for number in (1, 2)
    }
    assert {pair.first for pair in found.pairs} == {f"{block}.conv{number}" for block, number in inside} | {"conv1"}
    by_first = {pair.first: pair.seconds for pair in found.pairs}
    assert by_first["conv1"] == ("layer1.0.conv1", "layer1.0.downsample.0")
    seconds = ("layer2.1.conv2", "layer2.1.conv2.conv_offset") if deformable else ("layer2.1.conv2",)
    assert by_first["layer2.1.conv1"] == seconds
    assert "add_ reads its output" in found.refused["layer1.0.conv3"]
    before = [outgoing_range(model, pair.first) / incoming_range(model, pair.seconds[0]) for pair in found.pairs]
    assert max(float(ratio.detach().max()) for ratio in before) > 2
    equalise(model, found.pairs)
    assert_equalised(model, found.pairs)
    for level, want in zip(model(x), expected, strict=True):
        torch.testing.assert_close(level, want, rtol=1e-5, atol=1e-5 * float(want.detach().abs().max()))
