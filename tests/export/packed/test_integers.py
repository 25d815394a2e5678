"""Integer arithmetic: sums by hand, and every kind of layer and grid equal to fake quantization."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qdbev.export.packed import execute_integers
from qdbev.quantization import InputGrid, WeightGrid, make_plan, observing, quantize, quantized_layers, set_parts


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.attention(x, x.flip(1), x)[0]
        return result


MODELS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(5, 3), (2, 4, 5)),
    "no bias": (lambda: nn.Linear(5, 3, bias=False), (7, 5)),
    "convolution": (lambda: nn.Conv2d(4, 6, 3, padding=1, stride=2), (2, 4, 7, 5)),
    "groups": (lambda: nn.Conv2d(4, 6, (1, 3), padding=(0, 2), dilation=2, groups=2, bias=False), (1, 4, 6, 6)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, padding=1, stride=2, output_padding=1), (2, 4, 5, 3)),
    "transposed groups": (lambda: nn.ConvTranspose2d(4, 6, (2, 1), stride=2, groups=2, bias=False), (1, 4, 3, 4)),
    "attention": (Attending, (2, 6, 8)),
}
GRIDS: dict[str, dict[str, Any]] = {
    "signed": {},
    "unsigned": {"inputs": InputGrid(may_be_unsigned=True)},
    "offset": {"inputs": InputGrid(has_offset=True)},
    "tensor": {"weights": WeightGrid(granularity="tensor")},
}


def calibrated(make: Any, x: Tensor, *, bits: tuple[int, int] = (4, 6), **grids: Any) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(make()).eval()
    plan = make_plan(model, parts={"all": [""]}, weight_bits=bits[0], activation_bits=bits[1])
    quantize(model, plan, **grids)
    with observing(model), torch.no_grad():
        model(x)
    set_parts(model, {"all"})
    return model


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("bits", [(4, 6), (8, 8)], ids=["w4a6", "w8a8"])
@torch.no_grad()
def test_equal_to_fake_quantization(kind: str, grid: str, bits: tuple[int, int]) -> None:
    make, shape = MODELS[kind]
    x = torch.rand(shape, generator=torch.Generator().manual_seed(1)) + (0.5 if grid == "offset" else 0)
    model = calibrated(make, x, bits=bits, **GRIDS[grid])
    integers = copy.deepcopy(model)
    assert execute_integers(integers) == list(quantized_layers(model))
    assert torch.allclose(integers(x), model(x), rtol=0, atol=1e-6 * float(model(x).abs().max()) + 1e-6)


@torch.no_grad()
def test_a_sum_by_hand() -> None:
    model = calibrated(lambda: nn.Linear(2, 1), torch.tensor([[31.5, -31.5]]))
    layer: Any = model[0]  # type: ignore[index]
    layer.weight.copy_(torch.tensor([[7.5, -3.0]]))  # the range follows: step 1, integers 7 and -3
    layer.bias.fill_(0.25)
    execute_integers(model)
    # inputs have step 1 too: 10.4 and 2.6 are 10 and 3; 7 x 10 - 3 x 3 + 0.25
    assert model(torch.tensor([[10.4, 2.6]])).item() == 61.25


@torch.no_grad()
def test_a_sum_that_32_bits_do_not_hold_is_refused() -> None:
    x = torch.ones(1, 140_000)
    model = calibrated(lambda: nn.Linear(140_000, 1), x, bits=(8, 8))
    layer: Any = model[0]  # type: ignore[index]
    layer.weight.fill_(1.0)
    execute_integers(model)
    with pytest.raises(ValueError, match="does not fit into 32 bits"):
        model(x)  # 140,000 times 127 x 127


@torch.no_grad()
def test_what_has_no_integers_stays() -> None:
    x = torch.rand(3, 5)
    model = calibrated(lambda: nn.Linear(5, 3), x, bits=(4, 32))
    expected = model(x)
    assert execute_integers(model) == []
    assert torch.equal(model(x), expected)
    off = calibrated(lambda: nn.Linear(5, 3), x)
    set_parts(off, set())
    assert execute_integers(off) == []
