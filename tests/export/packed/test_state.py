"""The law of packed files over widths, grids and layers: every tensor of the state comes back, bit for bit."""

from __future__ import annotations

import copy
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from qdbev.export.packed import Limits, packed_state, sizes_of_state, unpacked_state
from qdbev.ops.deformable_convolution import DeformableConv
from qdbev.quantization import (
    InputGrid,
    Plan,
    WeightGrid,
    learn_ranges,
    make_plan,
    observing,
    quantize,
    quantized_layers,
    set_parts,
    settle_ranges,
    with_bits,
)

X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))
MIXED = {"conv": (2, 8), "point": (3, 6), "queries": (8, 32), "attention": (6, 4), "last": (4, 6)}


class Toy(nn.Module):
    """A layer of each kind; ``again`` holds the weight of ``last``."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3)
        self.point = nn.Conv2d(8, 8, 1)
        self.queries = nn.Embedding(5, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.last, self.again = nn.Linear(8, 8), nn.Linear(8, 8)
        self.again.weight = self.last.weight
        self.huge = nn.Parameter(torch.tensor([1e6]))  # float16 does not hold it

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.point(self.conv(x).relu()).flatten(2).transpose(1, 2)
        query = self.queries.weight[None].expand(len(x), -1, -1)
        return self.again(self.last(self.attention(query, tokens, tokens)[0])) * self.huge / 1e6


def fresh(*, bits: int | None, **grids: Any) -> tuple[Toy, Plan]:
    model = Toy().eval()
    plan = make_plan(model, parts={"all": [""]}, weight_bits=bits or 4, activation_bits=6)
    if bits is None:
        plan = with_bits(plan, MIXED | {"again": MIXED["last"]})
    return quantize(model, plan, **grids), plan  # type: ignore[return-value]


def calibrated(*, bits: int | None, trained: bool = False, **grids: Any) -> tuple[Toy, Plan]:
    model, plan = fresh(bits=bits, **grids)
    with observing(model), torch.no_grad():
        model(X)
    set_parts(model, {"all"})
    if trained:
        learn_ranges(model, weights=True, inputs=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        model(X).square().mean().backward()
        optimizer.step()
        settle_ranges(model)
    return model, plan


def deployed(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """What a state is when it is deployed: weights on their grid, ranges fixed, the rest through float16 if it fits."""
    layers = quantized_layers(model)
    weights = {
        f"{path}.{weight.name}": weight for path, layer in layers.items() for weight in layer.quantized_weights()
    }
    expected = {}
    for name, value in state.items():
        if name in weights:
            value = weights[name].quantizer(weights[name].value).detach()
        elif value.dtype == torch.float32 and not name.endswith((".scale", ".offset")) and value.abs().max() < 65504:
            value = value.half().float()
        elif name.endswith("weight_quantizer.flags"):
            value = value.clone()
            value[1] = 0
        expected[name] = value
    return expected


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8, None])
@pytest.mark.parametrize("trained", [False, True], ids=["calibrated", "trained"])
def test_every_tensor_comes_back(bits: int | None, trained: bool) -> None:
    grids = {"weights": WeightGrid(follow=not trained), "inputs": InputGrid(may_be_unsigned=True)}
    model, _ = calibrated(bits=bits, trained=trained, **grids)
    expected = deployed(model.state_dict(), model)
    other, _ = fresh(bits=bits, **grids)
    state = unpacked_state(packed_state(model), like=other.state_dict())
    assert "again.weight" not in state  # stored once, under its first name
    missing = expected.keys() - state.keys()
    assert {name.partition(".")[0] for name in missing} == {"again"}
    assert [name for name in state if not torch.equal(state[name], expected[name])] == []
    if bits is not None:
        assert len(packed_state(model).weights) == 6


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
def test_grids_of_all_kinds_come_back(granularity: Literal["channel", "tensor"]) -> None:
    weights = WeightGrid(granularity=granularity, scale_rule="hawq", narrow_range=True)
    inputs = InputGrid(has_offset=True)
    model, _ = calibrated(bits=4, weights=weights, inputs=inputs)
    other, _ = fresh(bits=4, weights=weights, inputs=inputs)
    packed = packed_state(model)
    assert packed.weights["conv.weight"] == Limits(4, -7, 7)
    assert packed.tensors["conv.weight_scale"].shape == ((8, 1) if granularity == "channel" else (1,))
    assert packed.tensors["conv.input_offset"] == model.conv.input_quantizer.offset  # type: ignore[union-attr]
    state, expected = unpacked_state(packed, like=other.state_dict()), deployed(model.state_dict(), model)
    assert [name for name in state if not torch.equal(state[name], expected[name])] == []


def test_deformable_convolutions_are_packed() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(DeformableConv(4, 8, 3)).eval()
    plan = make_plan(model, parts={"all": [""]}, weight_bits=4, activation_bits=6)
    assert {site.kind for site in plan.quantized} >= {"deformable_conv"}
    blank = copy.deepcopy(model)
    quantize(model, plan)
    quantize(blank, plan)
    with observing(model), torch.no_grad():
        model(torch.randn(1, 4, 5, 5))
    set_parts(model, {"all"})
    state = unpacked_state(packed_state(model), like=blank.state_dict())
    expected = deployed(model.state_dict(), model)
    assert "0.weight" in packed_state(model).weights
    assert [name for name in expected if not torch.equal(state[name], expected[name])] == []


def test_names_words_and_limits_by_hand() -> None:
    model, _ = calibrated(bits=4, inputs=InputGrid(may_be_unsigned=True))
    packed = packed_state(model)
    words = packed.tensors["conv.weight_packed"]
    assert (words.dtype, words.shape) == (torch.int32, (8, 4))  # 27 integers of 4 bits: 108 of 128 bits
    integers = model.conv.weight_quantizer.integers(model.conv.weight)  # type: ignore[union-attr]
    first = sum((int(q) + 8) << (4 * place) for place, q in enumerate(integers[0].flatten()[:8]))
    assert int(words[0, 0]) & 0xFFFFFFFF == first
    assert packed.tensors["conv.weight_shape"].tolist() == [8, 3, 3, 3]
    assert packed.inputs["conv.input"] == Limits(6, -32, 31)
    assert packed.inputs["point.input"] == Limits(6, 0, 63)  # behind a ReLU
    assert {"attention.query", "attention.key", "attention.value", "attention.out_proj.input"} <= packed.inputs.keys()
    assert (packed.tensors["conv.bias"].dtype, packed.tensors["huge"].dtype) == (torch.float16, torch.float32)


def test_bytes_by_hand() -> None:
    model, plan = calibrated(bits=4)
    sizes = sizes_of_state(packed_state(model), plan=plan)
    # rows x words x 4 bytes: conv 8 x 4, point 8 x 1, queries 5 x 1, attention 24 x 1 and 8 x 1, last 8 x 1
    pointwise = 4 * (8 + 24 + 8 + 8)
    assert (sizes.integers, sizes.pointwise) == (4 * (32 + 5) + pointwise, pointwise)
    # a scale a row, and inputs: conv, point, four of the attention, last, again
    assert sizes.parts["all"]["scales"] == 4 * (8 + 8 + 5 + 24 + 8 + 8) + 4 * 8
    # biases of two convolutions, two attention projections, two linear layers; one number in float32
    assert sizes.parts["all"]["rest"] == 2 * (8 + 8 + 24 + 8 + 8 + 8) + 4


def test_what_does_not_fit_is_refused() -> None:
    model, _ = calibrated(bits=4)
    other, _ = fresh(bits=8)
    with pytest.raises(ValueError, match="has 4 bits in the file and 8 in the model"):
        unpacked_state(packed_state(model), like=other.state_dict())
    packed = packed_state(model)
    del packed.tensors["conv.weight_scale"]
    with pytest.raises(ValueError, match=r"there is no tensor conv\.weight_scale"):
        unpacked_state(packed, like=model.state_dict())
    packed = packed_state(model)
    packed.tensors["conv.weight_shape"][0] = 9
    with pytest.raises(ValueError, match=r"conv.weight of shape \[9, 3, 3, 3\] has 8 rows and 8 scales"):
        unpacked_state(packed, like=model.state_dict())
    with pytest.raises(ValueError, match="has no range"):
        packed_state(fresh(bits=4, weights=WeightGrid(follow=False))[0])
    learn_ranges(model, weights=False, inputs=True)
    with pytest.raises(ValueError, match="still learned; settle"):
        packed_state(model)
