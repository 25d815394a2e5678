"""Batch norms that must not be folded although a layer stands right before them, each with its reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm
from torch.utils._pytree import tree_leaves

from qdbev.quantization import find_connections, fold_batchnorm
from qdbev.quantization.equalisation.smoothing import smooth


class StandardisedConv(nn.Conv2d):
    """Weight standardisation, as mmcv's ConvWS: what is folded into the weight is taken out again."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight / weight.std((1, 2, 3), keepdim=True), self.bias)


class InnerForward(nn.Conv2d):
    """Its own way below ``forward``."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, weight.tanh(), bias)


class OwnNorm(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).tanh()


class Rows(nn.Module):
    """A linear layer on the columns of a map and a norm over its channels, as wide as high (TokenNormHead24)."""

    def __init__(self, layer: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.layer, self.norm = layer, norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(x))


class TwoReaders(Rows):
    """The layer's weight is read by a function too."""

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(x)) + F.conv2d(x, self.layer.weight)


class TwoHolders(Rows):
    """Another layer holds the weight."""

    def __init__(self, layer: nn.Module, norm: nn.Module, *, bias: bool = False) -> None:
        super().__init__(layer, norm)
        self.other = nn.Conv2d(4, 4, 1)
        setattr(self.other, "bias" if bias else "weight", layer.bias if bias else layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(x)) + self.other(x)


class TwoViews(Rows):
    """Another layer holds a view of the weight."""

    def __init__(self, layer: nn.Conv2d, norm: nn.Module) -> None:
        super().__init__(layer, norm)
        self.other = nn.Linear(4, 4)
        self.other.weight = nn.Parameter(layer.weight.detach()[:, :, 0, 0])

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(x)) + self.other(x.movedim(1, -1)).movedim(-1, 1)


class Beside(Rows):
    """The layer's output is returned beside the norm's."""

    def forward(self, x: Tensor) -> Any:
        y = self.layer(x)
        return {"norm": self.norm(y), "raw": [y]}


class ReadsNorm(Rows):
    """A gate by the norm's scales, or by its statistics."""

    def __init__(self, layer: nn.Module, norm: nn.Module, *, tensor: str) -> None:
        super().__init__(layer, norm)
        self.tensor = tensor

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(x)) * getattr(self.norm, self.tensor).sigmoid()[:, None, None]


def replaced_forward() -> nn.Conv2d:
    conv = nn.Conv2d(4, 4, 1)
    conv.forward = lambda x: F.conv2d(x, conv.weight.abs(), conv.bias)  # type: ignore[method-assign]
    return conv


def hooked() -> nn.Conv2d:
    conv = nn.Conv2d(4, 4, 1)
    conv.register_forward_hook(lambda module, inputs, output: output * 2)
    return conv


def bn() -> nn.BatchNorm2d:
    return nn.BatchNorm2d(4)


CASES: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "weight standardisation": (lambda: Rows(StandardisedConv(4, 4, 1), bn()), "StandardisedConv has its own forward"),
    "inner forward": (lambda: Rows(InnerForward(4, 4, 1), bn()), "InnerForward has its own _conv_forward"),
    "replaced forward": (lambda: Rows(replaced_forward(), bn()), "the forward of this Conv2d was replaced"),
    "weight norm": (
        lambda: Rows(parametrizations.weight_norm(nn.Conv2d(4, 4, 1)), bn()),
        "a parametrization or a hook",
    ),
    "old weight norm": (lambda: Rows(weight_norm(nn.Conv2d(4, 4, 1)), bn()), "a parametrization or a hook"),
    "spectral norm": (lambda: Rows(spectral_norm(nn.Conv2d(4, 4, 1)), bn()), "a parametrization or a hook"),
    "hooked layer": (lambda: Rows(hooked(), bn()), "hooks see what this Conv2d gives"),
    "own norm": (lambda: Rows(nn.Conv2d(4, 4, 1), OwnNorm(4)), "OwnNorm has its own forward"),
    "other axis": (lambda: Rows(nn.Linear(4, 4), bn()), "its channels are on another axis than those of layer"),
    "read by a function": (lambda: TwoReaders(nn.Conv2d(4, 4, 1), bn()), "something else reads a parameter of layer"),
    "shared weight": (lambda: TwoHolders(nn.Conv2d(4, 4, 1), bn()), "layer shares a parameter with other"),
    "shared bias": (lambda: TwoHolders(nn.Conv2d(4, 4, 1), bn(), bias=True), "layer shares a parameter with other"),
    "returned beside": (lambda: Beside(nn.Conv2d(4, 4, 1), bn()), "something else reads the output of layer"),
    "read scales": (
        lambda: ReadsNorm(nn.Conv2d(4, 4, 1), bn(), tensor="weight"),
        "something else reads a parameter of norm",
    ),
    "read statistics": (
        lambda: ReadsNorm(nn.Conv2d(4, 4, 1), bn(), tensor="running_var"),
        "something else reads a parameter of norm",
    ),
    "shared view": (lambda: TwoViews(nn.Conv2d(4, 4, 1), bn()), "layer shares a parameter with other"),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("case", CASES)
def test_what_is_not_folded_says_why_and_stays(case: str) -> None:
    torch.manual_seed(0)
    make, reason = CASES[case]
    model, x = make().eval(), torch.randn(2, 4, 4, 4)
    norm = model.norm
    assert isinstance(norm, nn.BatchNorm2d)
    for buffer in (norm.running_mean, norm.running_var):
        assert buffer is not None
        buffer.uniform_(0.5, 2)
    with torch.no_grad():
        expected = model(x)
        folding = fold_batchnorm(model, lambda: model(x))
        assert folding.pairs == () and reason in folding.unfolded["norm"]
        assert all(map(torch.equal, tree_leaves(model(x)), tree_leaves(expected)))


def test_a_norm_that_is_called_by_keyword_is_folded() -> None:
    class Keywords(Rows):
        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.norm(input=self.layer(input=x))
            return result

    model = Keywords(nn.Conv2d(4, 4, 1), bn()).eval()
    assert fold_batchnorm(model, lambda: model(torch.randn(2, 4, 4, 4))).pairs == (("layer", "norm"),)


@pytest.mark.parametrize("shape", [(2, 4, 4), (6, 4)])
def test_a_norm_behind_a_linear_layer_is_folded_where_channels_come_last(shape: tuple[int, ...]) -> None:
    model, x = Rows(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval(), torch.randn(*shape)
    assert len(fold_batchnorm(model, lambda: model(x)).pairs) == (1 if len(shape) == 2 else 0)


def test_a_layer_that_returns_through_a_wrapper_changes_that_wrapper_too() -> None:
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1)), nn.BatchNorm2d(4)).eval()
    folding = fold_batchnorm(model, lambda: model(torch.randn(1, 3, 2, 2)))
    assert folding.pairs == (("0.0", "1"),) and folding.changed == {"0", "0.0"}


class Tied(nn.Module):
    """Two layers in a row, and a third that holds the first one's weight; attention with a shared projection."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(4, 4) for _ in range(3))
        self.third.weight = self.first.weight
        self.attention, self.projection = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 4)
        self.projection.weight = self.attention.out_proj.weight
        self.norm, self.reader, self.twin = nn.LayerNorm(4), nn.Linear(4, 4), nn.LayerNorm(4)
        self.twin.weight = self.norm.weight

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x).relu()) + self.third(x) + self.projection(x)
        return self.attention(y, y, y)[0] + self.reader(self.norm(y)) + self.twin(y)


def test_shared_weights_are_not_equalised_or_smoothed() -> None:
    model, x = Tied().eval(), torch.randn(2, 3, 4)
    found = find_connections(model, lambda: model(x))
    assert found.pairs == ()
    assert found.refused["first"] == "first shares its weight with another layer"
    assert "shares its weight" in found.refused["attention"]
    smoothing = smooth(model, example_call=lambda: model(x), run=lambda: model(x), alpha=0.5)
    assert smoothing.scales == {} and smoothing.refused["norm"] == "norm shares its weight with another layer"


def test_a_layer_whose_weight_a_function_reads_is_not_equalised() -> None:
    class Read(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = super().forward(x)
            return result + F.linear(x, self[0].weight).mean(-1, keepdim=True)

    model = Read(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    found = find_connections(model, lambda: model(torch.randn(2, 4)))
    assert found.pairs == () and found.refused["0"] == "something else reads a parameter of 0"
