"""Every layer that torch has: planned with a reason, and counted, or known to multiply nothing."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.prune import l1_unstructured
from torch.nn.utils.rnn import pack_padded_sequence

from qdbev.quantization import bops, count_macs, macs_by_part, make_plan, observing, quantize, set_parts

Case = tuple[Callable[[], nn.Module], Callable[[], tuple[Any, ...]], int]  # layer, inputs, MACs by hand

IMAGE = (2, 4, 6, 6)
_NORMS = {
    "BatchNorm1d": (2, 4),
    "BatchNorm2d": IMAGE,
    "BatchNorm3d": (2, 4, 2, 3, 3),
    "InstanceNorm1d": (2, 4, 5),
    "InstanceNorm2d": IMAGE,
    "InstanceNorm3d": (2, 4, 2, 3, 3),
}


def randn(*shape: int) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.randn(*shape),)


CASES: dict[str, Case] = {
    "Linear": (lambda: nn.Linear(4, 3), randn(2, 5, 4), 2 * 5 * 12),
    "Bilinear": (lambda: nn.Bilinear(4, 5, 3), lambda: (torch.randn(2, 4), torch.randn(2, 5)), 2 * 60),
    "Conv1d": (lambda: nn.Conv1d(4, 6, 3, groups=2), randn(2, 4, 7), 2 * 6 * 5 * 2 * 3),
    "Conv2d": (lambda: nn.Conv2d(4, 6, 3, padding=1), randn(*IMAGE), 2 * 6 * 36 * 4 * 9),
    "Conv3d": (lambda: nn.Conv3d(4, 2, 2), randn(1, 4, 3, 3, 3), 2 * 8 * 4 * 8),
    "ConvTranspose1d": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2), randn(2, 4, 5), 2 * 4 * 5 * 6 * 3),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), randn(*IMAGE), 2 * 4 * 36 * 3 * 4),
    "ConvTranspose3d": (lambda: nn.ConvTranspose3d(4, 2, 2), randn(1, 4, 3, 3, 3), 4 * 27 * 2 * 8),
    "RNN": (lambda: nn.RNN(4, 3), randn(5, 2, 4), 10 * (12 + 9)),
    "LSTM": (lambda: nn.LSTM(4, 3, num_layers=2, bidirectional=True), randn(5, 2, 4), 10 * 2 * 4 * (12 + 9 + 18 + 9)),
    "GRU": (lambda: nn.GRU(4, 3, batch_first=True), randn(2, 5, 4), 10 * 3 * (12 + 9)),
    "RNNCell": (lambda: nn.RNNCell(4, 3), randn(2, 4), 2 * 21),
    "LSTMCell": (lambda: nn.LSTMCell(4, 3), randn(2, 4), 2 * 84),
    "GRUCell": (lambda: nn.GRUCell(4, 3), randn(2, 4), 2 * 63),
    "MultiheadAttention": (lambda: nn.MultiheadAttention(4, 2), lambda: (torch.randn(5, 2, 4),) * 3, 10 * 64),
    "TransformerEncoderLayer": (lambda: nn.TransformerEncoderLayer(4, 2, 8), randn(5, 2, 4), 10 * (64 + 64)),
    "TransformerDecoderLayer": (
        lambda: nn.TransformerDecoderLayer(4, 2, 8),
        lambda: (torch.randn(5, 2, 4), torch.randn(3, 2, 4)),
        10 * 64 + (2 * 10 + 2 * 6) * 16 + 10 * 64,
    ),
    "TransformerEncoder": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 2),
        randn(2, 5, 4),
        2 * 10 * 128,
    ),
    "TransformerDecoder": (
        lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(4, 2, 8), 1),
        lambda: (torch.randn(5, 2, 4), torch.randn(3, 2, 4)),
        10 * 64 + (2 * 10 + 2 * 6) * 16 + 10 * 64,
    ),
    "Transformer": (
        lambda: nn.Transformer(4, 2, 1, 1, 8),
        lambda: (torch.randn(3, 2, 4), torch.randn(5, 2, 4)),
        6 * 128 + 10 * 64 + (2 * 10 + 2 * 6) * 16 + 10 * 64,
    ),
    "AdaptiveLogSoftmaxWithLoss": (
        lambda: nn.AdaptiveLogSoftmaxWithLoss(4, 10, [5]),
        lambda: (torch.randn(2, 4), torch.tensor([1, 2])),
        2 * 4 * 6,
    ),
    "LinearCrossEntropyLoss": (
        lambda: nn.LinearCrossEntropyLoss(4, 3),
        lambda: (torch.randn(2, 4), torch.tensor([1, 2])),
        2 * 12,
    ),
    "Embedding": (lambda: nn.Embedding(5, 4), lambda: (torch.tensor([1, 2]),), 0),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(5, 4), lambda: (torch.tensor([[1, 2]]),), 0),
    "LayerNorm": (lambda: nn.LayerNorm((3, 4)), randn(2, 3, 4), 0),
    "RMSNorm": (lambda: nn.RMSNorm((3, 4)), randn(2, 3, 4), 0),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), randn(*IMAGE), 0),
    "SyncBatchNorm": (lambda: nn.SyncBatchNorm(4), randn(*IMAGE), 0),
    "PReLU": (lambda: nn.PReLU(4), randn(*IMAGE), 0),
} | {
    name: (lambda name=name: getattr(nn, name)(4, affine=True), randn(*shape), 0)  # type: ignore[misc]
    for name, shape in _NORMS.items()
}
# these hold nothing by themselves, or become one of the others at the first call
_EMPTY = {
    "Module",
    "ModuleList",
    "ModuleDict",
    "ParameterList",
    "ParameterDict",
    "Sequential",
    "Container",
    "DataParallel",
}


def test_no_layer_of_torch_is_forgotten() -> None:
    classes = {name: cls for name, cls in vars(nn).items() if inspect.isclass(cls) and issubclass(cls, nn.Module)}
    weightless = set()
    for name, cls in classes.items():
        try:
            weightless |= set() if any(True for _ in cls().parameters()) else {name}
        except (TypeError, ValueError):
            required = inspect.signature(cls.__init__).parameters
            if not {"device", "dtype"} & set(required):  # torch's layers with weights take both
                weightless.add(name)
    lazy = {name for name in classes if name.startswith("Lazy")}
    bases = {"RNNBase", "RNNCellBase", "CrossMapLRN2d"}
    assert set(classes) - weightless - lazy - bases - _EMPTY - set(CASES) == set()
    assert len(CASES) == 35 and set(CASES) <= set(classes)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", CASES)
def test_each_is_planned_with_a_reason_and_counted_by_hand_in_float_and_quantized(name: str) -> None:
    torch.manual_seed(0)
    make, inputs, expected = CASES[name]
    model = nn.ModuleDict({"layer": make()}).eval()
    given = inputs()

    def run() -> object:
        return model["layer"](*given)

    plan = make_plan(model, parts={"all": ["layer"]}, weight_bits=4, activation_bits=6)
    assert all(site.reason for site in plan) and len(plan.sites) > 0
    lines = count_macs(model, run)
    assert sum(line.macs for line in lines if line.is_layer) == expected
    assert macs_by_part(plan, lines) == {"all": expected} and not any(line.kind == "not_counted" for line in lines)
    quantized_paths = {site.path for site in plan.quantized}
    calls = [line for line in lines if line.is_layer and line.kind != "function"]  # a function reads no quantizer
    share = sum(line.macs for line in calls if line.path in quantized_paths)
    assert bops(plan, lines).total == 24 * share + 1024 * (expected - share)
    quantize(model, plan)
    with torch.no_grad(), observing(model):
        run()
    set_parts(model, ["all"] if quantized_paths else [])
    assert [line for line in count_macs(model, run) if line.is_layer] == [line for line in lines if line.is_layer]


COMPUTED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "weight norm": (lambda: parametrizations.weight_norm(nn.Conv2d(4, 6, 3)), IMAGE, 2 * 6 * 16 * 36),
    "spectral norm": (lambda: parametrizations.spectral_norm(nn.Conv1d(4, 6, 3)), (2, 4, 7), 2 * 6 * 5 * 12),
    "orthogonal": (lambda: parametrizations.orthogonal(nn.Linear(4, 4)), (2, 4), 2 * 16),
    "pruned": (lambda: l1_unstructured(nn.ConvTranspose2d(4, 6, 2), "weight", 0.5), IMAGE, 2 * 4 * 36 * 24),
    "recurrent": (lambda: parametrizations.weight_norm(nn.GRU(4, 3), "weight_hh_l0"), (5, 2, 4), 10 * 63),
    "cell": (lambda: l1_unstructured(nn.LSTMCell(4, 3), "weight_ih", 0.5), (2, 4), 2 * 84),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_layers_whose_weight_is_computed_count_as_others(name: str) -> None:
    make, shape, macs = COMPUTED[name]
    model = nn.ModuleDict({"layer": make()}).eval()
    lines = count_macs(model, lambda: model["layer"](torch.randn(shape)))
    assert sum(line.macs for line in lines if line.is_layer) == macs


class ByFunction(nn.Module):
    """Products without a layer: of weights, of views of weights, and of activations."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix, self.kernel = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(2, 4, 3, 3))
        self.added = nn.Parameter(torch.randn(5, 4))
        self.table = nn.Embedding(6, 4)

    def forward(self, x: Tensor, how: str) -> Tensor:
        tokens = x + self.added
        if how == "linear":
            return F.linear(tokens, self.matrix.t())
        if how == "matmul":
            return tokens @ self.matrix
        if how == "einsum":
            return torch.einsum("bnc,cd->bnd", tokens, self.matrix)
        if how == "convolution":
            return F.conv2d(x.reshape(1, 4, 5, 2), self.kernel, padding=1)
        if how == "computed":
            return F.conv2d(x.reshape(1, 4, 5, 2), self.kernel.tanh(), padding=1)
        if how == "transposed":
            return F.conv_transpose2d(torch.ones(1, 2, 3, 3), self.kernel)
        if how == "scores":
            return tokens @ self.table.weight.t()
        if how == "bmm":
            return torch.bmm(tokens, tokens.transpose(1, 2))
        return F.scaled_dot_product_attention(tokens, tokens, tokens)


@pytest.mark.parametrize(
    ("how", "kind", "path", "macs"),
    [
        ("linear", "function", "layer", 2 * 5 * 12),
        ("matmul", "function", "layer", 2 * 5 * 12),
        ("einsum", "function", "layer", 2 * 5 * 12),
        ("convolution", "function", "layer", 2 * 10 * 36),
        ("computed", "function", "layer", 2 * 10 * 36),
        ("transposed", "function", "layer", 18 * 36),
        ("scores", "function", "layer.table", 2 * 5 * 24),
        ("bmm", "product", "layer", 2 * 25 * 4),
        ("attention", "product", "layer", 2 * 25 * 8),
    ],
)
def test_products_by_function_are_counted_where_they_are_seen(how: str, kind: str, path: str, macs: int) -> None:
    model = nn.ModuleDict({"layer": ByFunction()}).eval()
    lines = count_macs(model, lambda: model["layer"](torch.randn(2, 5, 4), how))
    seen = [(line.path, line.kind, line.macs) for line in lines if line.kind != "not_counted"]
    merged = {(p, k): sum(m for q, j, m in seen if (q, j) == (p, k)) for p, k, _ in seen}
    assert merged == {(path, kind): macs}
    plan = make_plan(model, parts={"all": ["layer"]}, weight_bits=4, activation_bits=6)
    assert bops(plan, lines).total == (1024 * macs if kind == "function" else 0)
    assert bops(plan, lines, include_operations=True).total == 1024 * macs


class Kernel(nn.Module):
    """Multiplies where nothing can be seen."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.table = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(5, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.numpy() @ self.weight.detach().numpy().T) + self.table.sum()


def test_what_cannot_be_seen_is_named_as_not_counted() -> None:
    model = nn.ModuleDict({"kernel": Kernel(), "layer": nn.Linear(3, 2), "idle": Kernel()}).eval()
    lines = count_macs(model, lambda: model["layer"](model["kernel"](torch.randn(2, 4))))
    assert [(line.path, line.kind, line.macs) for line in lines] == [
        ("layer", "linear", 12),
        ("kernel", "not_counted", 0),
    ]


class SparseConvolution(nn.Module):
    """As mmcv's: pairs of inputs and outputs in a rule book."""

    def __init__(self, pairs: list[int] | None, *, key: str | None = None, conv1x1: bool = False) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.indice_key, self.conv1x1 = 4, 3, key, conv1x1
        self.weight, self.pairs = nn.Parameter(torch.randn(3, 3, 4, 3)), pairs

    def forward(self, x: Tensor) -> Any:
        book = None if self.pairs is None else (x, x, x, torch.tensor(self.pairs), [4, 4])
        return SimpleNamespace(features=torch.randn(7, 3), indice_dict={self.indice_key: book})


@pytest.mark.parametrize(
    ("layer", "macs"),
    [
        (SparseConvolution([5, 0, 9]), 14 * 12),
        (SparseConvolution([2, 2], key="subm"), 4 * 12),
        (SparseConvolution(None, conv1x1=True), 7 * 12),
        (SparseConvolution(None), None),
    ],
)
def test_sparse_convolutions_count_the_pairs_of_their_rule_book(layer: nn.Module, macs: int | None) -> None:
    model = nn.ModuleDict({"layer": layer})
    (line,) = count_macs(model, lambda: model["layer"](torch.randn(7, 4)))
    assert (line.path, line.kind, line.macs) == (
        "layer",
        *(("not_counted", 0) if macs is None else ("sparse_conv", macs)),
    )


def test_rows_of_lengths_of_their_own_are_not_counted() -> None:
    model = nn.ModuleDict({"layer": nn.Linear(4, 3)})
    rows = torch.nested.nested_tensor([torch.randn(2, 4), torch.randn(3, 4)])
    (line,) = count_macs(model, lambda: model["layer"](rows))
    assert (line.path, line.kind, line.macs) == ("layer", "not_counted", 0)


def test_packed_sequences_count_the_steps_they_have() -> None:
    model = nn.ModuleDict({"layer": nn.GRU(4, 3, batch_first=True)})
    packed = pack_padded_sequence(torch.randn(2, 5, 4), torch.tensor([5, 2]), batch_first=True)
    (line,) = count_macs(model, lambda: model["layer"](packed))
    assert line.macs == 7 * 63
