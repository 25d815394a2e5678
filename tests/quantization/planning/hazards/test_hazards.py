"""Each hazard on a module of a few lines, beside a neighbour that is none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qdbev.ops import Rows, deformable_attention
from qdbev.quantization import Hazard, WatchedHazards, hazard_counts, make_plan

Function = Callable[[Tensor], Tensor]


class Before(nn.Module):
    """Computes something of its input."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def hazards_of(
    model: nn.Module, *inputs: Tensor, bits: int = 6, float_layers: tuple[str, ...] = ()
) -> list[tuple[str, str]]:
    """Code and layer of each."""
    return [(hazard.code, hazard.layer) for hazard in found(model, *inputs, bits=bits, float_layers=float_layers)]


def found(model: nn.Module, *inputs: Tensor, bits: int = 6, float_layers: tuple[str, ...] = ()) -> list[Hazard]:
    watched = WatchedHazards(model.eval(), lambda: model(*inputs))
    with torch.no_grad():
        watched()
    plan = make_plan(model, parts={"all": [""]}, weight_bits=4, activation_bits=bits, float_layers=float_layers)
    return watched.hazards({site.path: (site.weight_bits, site.activation_bits) for site in plan})


def wide(inputs: int = 16, outputs: int = 16) -> nn.Linear:
    """A layer that is itself no hazard, whose outputs are its inputs."""
    layer = nn.Linear(inputs, outputs)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


# -- inverse sigmoid -------------------------------------------------------------------------------------------------


def clipped(x: Tensor) -> Tensor:
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=1e-5) / (1 - x).clamp(min=1e-5))


@pytest.mark.parametrize(
    "function",
    [clipped, torch.logit, lambda x: x.log() - (1 - x).log(), lambda x: x.log() - torch.log1p(-x)],
    ids=["clipped", "logit", "logs", "log1p"],
)
def test_an_inverse_sigmoid_in_each_of_its_forms(function: Function) -> None:
    x = torch.tensor([[0.25, 0.5, 0.75]])
    [hazard] = found(Before(function), x)
    assert (hazard.code, hazard.layer, hazard.operation.partition(" (test_hazards.py:")[0]) == (
        *("inverse-sigmoid", "", "inverse sigmoid"),
    )
    assert (hazard.low, hazard.high) == pytest.approx((-1.0986123, 1.0986123))  # log 3


@pytest.mark.parametrize(
    "function",
    [
        torch.sigmoid,
        lambda x: torch.log(x / (2 - x)),
        lambda x: torch.log(x / (1 - x.flip(1))),  # of other numbers
        lambda x: x.log() - (2 - x).log(),
        lambda x: x / (1 - x),
    ],
)
def test_no_inverse_sigmoid(function: Function) -> None:
    assert hazards_of(Before(function), torch.tensor([[0.25, 0.5, 0.75]])) == []


# -- division --------------------------------------------------------------------------------------------------------


def depths(nearest: float) -> Tensor:
    return torch.linspace(1, 60, 100).clone().index_fill_(0, torch.tensor([7]), nearest)[None]


@pytest.mark.parametrize("function", [torch.reciprocal, lambda z: 5 / z, lambda z: torch.ones_like(z) / z])
def test_a_division_by_depth_that_comes_near_0(function: Function) -> None:
    [hazard] = found(nn.Sequential(Before(function)), depths(1e-5))
    assert (hazard.code, hazard.layer) == ("reciprocal", "0")
    assert hazard.operation.startswith("divides by numbers from 1e-05 to 60 (test_hazards.py:")
    assert hazard.high == pytest.approx(1e5)
    assert hazards_of(nn.Sequential(Before(function)), depths(1.0)) == []


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x / 1e-6,
        lambda x: x / x.abs().max(),
        lambda x: x / (x.abs() + 1e-6),  # near 0, and yet of one size
        lambda x: x / torch.tensor([1, 100_000]).repeat(50),  # integers, such as counts
    ],
)
def test_a_division_that_is_none(function: Function) -> None:
    assert hazards_of(Before(function), depths(1e-5)) == []


# -- masks -----------------------------------------------------------------------------------------------------------


def assigned(x: Tensor) -> Tensor:
    x = x.clone()
    x[x > 0] = -1e9
    return x


@pytest.mark.parametrize(
    ("function", "low"),
    [
        (lambda x: x.masked_fill(x > 0, -1e9), -1e9),
        (lambda x: x.clone().masked_fill_(x > 0, float("-inf")), float("-inf")),
        (lambda x: torch.where(x > 0, -1e4, x), -1e4),
        (lambda x: torch.where(x > 0, torch.tensor(-1e9), x), -1e9),
        (assigned, -1e9),
    ],
)
def test_a_fill_by_a_huge_number(function: Function, low: float) -> None:
    [hazard] = found(Before(function), torch.tensor([[1.0, -2.0]]))
    assert (hazard.code, hazard.low, hazard.high) == ("masked-fill", low, -2.0)
    assert hazard.operation.startswith(f"fills with {low:.3g} where masked (test_hazards.py:")


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.masked_fill(x > 0, -100.0),
        lambda x: x.long().masked_fill(x > 0, -(10**9)).float().clamp(min=-1),
        lambda x: torch.where(x > 0, x * 1e9, x),
    ],
)
def test_no_mask(function: Function) -> None:
    assert hazards_of(Before(function), torch.tensor([[1.0, -2.0]])) == []


def test_a_mask_inside_an_attention_is_seen() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            mask = torch.zeros(x.shape[:2], dtype=torch.bool)
            mask[:, 0] = True
            attended: Tensor = self.attention(x, x, x, key_padding_mask=mask)[0]
            return attended

    torch.manual_seed(0)
    assert ("masked-fill", "attention") in hazards_of(Masked(), torch.randn(1, 3, 16))


# -- one range for operands of unlike ranges --------------------------------------------------------------------------


class Mixed(nn.Module):
    """Two layers' outputs mixed, then read by a third."""

    def __init__(self, mix: Callable[[Tensor, Tensor], Tensor], *, times: float) -> None:
        super().__init__()
        self.first, self.second, self.reader = wide(), wide(), nn.LazyLinear(16)
        self.mix, self.times = mix, times

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.reader(self.mix(self.first(x), self.second(x * self.times)))
        return result


MIXES: list[Callable[[Tensor, Tensor], Tensor]] = [
    lambda a, b: a + b,
    lambda a, b: a.add_(b),
    lambda a, b: torch.cat([a, b], -1),
    lambda a, b: F.relu(a + b).view(1, 2, 16).clone(),
]


@pytest.mark.parametrize("mix", MIXES)
def test_a_layer_that_reads_operands_of_unlike_ranges(mix: Callable[[Tensor, Tensor], Tensor]) -> None:
    x = torch.linspace(-1, 1, 32).view(2, 16)
    model = Mixed(mix, times=10)
    model(x)
    [hazard] = found(model, x)
    assert (hazard.code, hazard.layer) == ("shared-range", "reader")
    assert "of up to 1 and 10 in one range" in hazard.operation
    assert hazard.high in (10, 11)
    assert hazards_of(model, x, float_layers=("reader",)) == []
    alike = Mixed(mix, times=7)
    alike(x)
    assert hazards_of(alike, x) == []


@pytest.mark.parametrize(
    "mix",
    [
        lambda a, b: F.layer_norm(a + b, (16,)),  # the norm makes one range of it
        lambda a, b: a + 10 * b[0],  # a bias
        lambda a, b: a + 10 * b[:1],  # one that has an axis more
        lambda a, b: a + 100.0,
        lambda a, b: a * b,
        lambda a, b: a + 0 * b,
    ],
)
def test_operands_that_may_be_unlike(mix: Callable[[Tensor, Tensor], Tensor]) -> None:
    x = torch.linspace(-1, 1, 32).view(2, 16)
    model = Mixed(mix, times=10)
    model(x)
    assert hazards_of(model, x) == []


# -- coordinates -----------------------------------------------------------------------------------------------------


class Sampler(nn.Module):
    """A layer that says where ``grid_sample`` looks: between -reach and reach."""

    def __init__(self, *, side: int, norm: bool = False) -> None:
        super().__init__()
        self.places, self.norm = wide(16, 16), norm
        self.register_buffer("image", torch.zeros(1, 1, 4, side))

    def forward(self, x: Tensor) -> Tensor:
        places = self.places(x)
        places = F.layer_norm(places, (16,)) if self.norm else places
        return F.grid_sample(self.image, places.view(1, 1, 8 * len(x), 2).tanh(), align_corners=False)


def test_a_layer_that_gives_coordinates_of_coarse_steps() -> None:
    x = torch.tensor([[-20.0, 20.0] * 8])  # tanh reaches both borders
    [hazard] = found(Sampler(side=63), x)
    assert (hazard.code, hazard.layer) == ("coordinates", "places")
    assert hazard.operation == "gives places of grid_sample: 1 px a step of 6 bits"  # 63 px in 63 steps
    assert (hazard.low, hazard.high) == (0, 63)
    assert hazards_of(Sampler(side=7), x) == []  # a ninth of a pixel
    assert hazards_of(Sampler(side=63), x, bits=9) == []  # 511 steps
    assert hazards_of(Sampler(side=63), x, float_layers=("places",)) == []
    assert hazards_of(Sampler(side=63, norm=True), x) == []  # no layer gives the coordinates as they are


class DeformableSampler(nn.Module):
    """Offsets and references of deformable attention, by a layer each."""

    def __init__(self) -> None:
        super().__init__()
        self.offsets, self.references = wide(), wide()

    def forward(self, x: Tensor, fractions: Tensor) -> Tensor:
        return deformable_attention(
            torch.zeros(1, 4 * 21, 1, 1),
            level_shapes=[(4, 21)],
            rows=Rows.own_image(images=1, queries=len(x), device=x.device),
            references_RLP2=self.references(fractions).view(-1, 1, 8, 2),
            offsets_JMLP2=self.offsets(x).view(-1, 1, 1, 8, 2),
            weights_JMLP=torch.ones(len(x), 1, 1, 8),
        )


def test_offsets_and_references_of_deformable_attention_past_torchs_dispatcher() -> None:
    x, fractions = torch.linspace(-6.3, 6.3, 32).view(2, 16), torch.linspace(0, 1, 32).view(2, 16)
    offsets, references = sorted(found(DeformableSampler(), x, fractions), key=lambda hazard: hazard.layer)
    assert offsets.operation == "gives offsets of deformable sampling: 0.2 px a step of 6 bits"
    assert references.operation == "gives places of deformable sampling: 0.33 px a step of 6 bits"  # 21 px in 63 steps
    assert (references.low, references.high) == (0, 21)
    assert hazards_of(DeformableSampler(), x / 2, fractions) == [("coordinates", "references")]


def test_offsets_of_a_deformable_convolution() -> None:
    from qdbev.ops.deformable_convolution import DeformableConv

    torch.manual_seed(0)
    layer = DeformableConv(16, 16, 3, padding=1)
    nn.init.normal_(layer.conv_offset.weight, std=0.5)
    model, x = nn.Sequential(layer), torch.randn(1, 16, 5, 5)
    [hazard] = found(model, x)
    assert (hazard.code, hazard.layer) == ("coordinates", "0.conv_offset")
    assert hazard.low == pytest.approx(layer.conv_offset(x).min().item(), rel=1e-5)
    nn.init.zeros_(layer.conv_offset.weight)
    assert hazards_of(model, x) == []


def test_a_layer_that_reads_an_inverse_sigmoid() -> None:
    x = torch.linspace(0, 1, 32).view(2, 16)
    model = nn.Sequential(Before(clipped), wide())
    assert hazards_of(model, x) == [("inverse-sigmoid", "0"), ("coordinates", "1")]
    assert hazards_of(model, x, bits=16) == [("inverse-sigmoid", "0")]
    assert hazards_of(nn.Sequential(Before(clipped), nn.LayerNorm(16), wide()), x) == [("inverse-sigmoid", "0")]


def test_a_layer_that_reads_raw_numbers_of_unlike_size() -> None:
    x = torch.full((2, 16), 31.0)
    x[:, 3], x[:, 4], x[:, 5] = -0.4, 0.6, 0  # steps are 1: the first rounds to 0, and the third is 0
    [hazard] = found(nn.Sequential(wide()), x)
    assert hazard.operation == "reads raw numbers: 1 of 16 round to 0 in 6 bits"
    assert (hazard.code, hazard.layer, hazard.low, round(hazard.high)) == ("coordinates", "0", pytest.approx(-0.4), 31)
    assert hazards_of(nn.Sequential(wide()), x, bits=8) == []
    assert hazards_of(nn.Sequential(wide(), wide()), x) == [("coordinates", "0")]  # the second reads features


def by_a_kernel(x: Tensor) -> Tensor:
    """Written past torch's dispatcher."""
    result = torch.empty_like(x)
    result.numpy()[:] = x.numpy()
    return result


def test_raw_numbers_are_told_from_features() -> None:
    x = torch.full((2, 16), 31.0)
    x[:, 3] = -0.4
    for raw in (nn.BatchNorm1d(16), Before(by_a_kernel), Before(torch.clone)):
        assert hazards_of(nn.Sequential(raw, wide()), x) == [("coordinates", "1")]
    for before in (nn.BatchNorm1d(16), Before(by_a_kernel), Before(torch.clone)):
        assert hazards_of(nn.Sequential(wide(), before, wide()), x) == [("coordinates", "0")]


# -- narrow projections ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "x", "words"),
    [
        (nn.Linear(64, 10), torch.ones(2, 64), "projects 64 to 10 numbers"),
        (nn.Linear(3, 64), torch.ones(2, 3), "projects 3 to 64 numbers"),
        (nn.Conv2d(8, 32, 1), torch.ones(1, 8, 2, 2), "projects 8 to 32 numbers"),
    ],
)
def test_a_narrow_projection(layer: nn.Module, x: Tensor, words: str) -> None:
    nn.init.constant_(layer.weight, 0.5)
    [hazard] = found(nn.Sequential(layer), x)
    assert (hazard.code, hazard.layer, hazard.operation) == ("narrow", "0", words)
    assert (hazard.low, hazard.high) == (0.5, 0.5)
    assert hazards_of(nn.Sequential(layer), x, float_layers=("0",)) == []


@pytest.mark.parametrize(
    ("layer", "x"),
    [(nn.Linear(16, 16), torch.ones(2, 16)), (nn.Conv2d(3, 8, 3), torch.ones(1, 3, 4, 4))],
)
def test_no_narrow_projection(layer: nn.Module, x: Tensor) -> None:
    assert hazards_of(nn.Sequential(layer), x) == []


@pytest.mark.parametrize("shape", [(0, 16), (16,), (2, 0, 16)])
def test_inputs_of_any_shape_are_watched(shape: tuple[int, ...]) -> None:
    assert hazards_of(nn.Sequential(wide(), Before(lambda x: x / x), wide()), torch.ones(shape)) == []
    assert hazards_of(nn.Sequential(nn.Conv2d(16, 16, 1)), torch.ones(16, 2, 2)) == []


# -- the watch -------------------------------------------------------------------------------------------------------


def test_what_does_not_run_is_no_finding() -> None:
    model = nn.ModuleDict({"used": wide(), "unused": nn.Linear(16, 2)})
    watched = WatchedHazards(model, lambda: model["used"](torch.ones(1, 16)))
    watched()
    assert watched.hazards({"used": (4, 6), "unused": (4, 6)}) == []


def test_the_first_run_alone_is_watched_and_changes_nothing() -> None:
    torch.manual_seed(0)
    model, x, over = nn.Sequential(Before(torch.logit), nn.Linear(16, 4)), torch.rand(2, 16), []
    expected = model(x)
    watched = WatchedHazards(model, lambda: model(x), then=over.append)
    assert all(torch.equal(expected, watched()) for _ in range(3))  # type: ignore[arg-type]
    assert over == [watched]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_hazards_are_counted_in_the_order_of_their_codes() -> None:
    x = torch.linspace(0, 1, 32).view(2, 16)
    hazards = found(nn.Sequential(nn.Linear(16, 4), nn.Sigmoid(), Before(clipped), nn.Linear(4, 16)), x)
    assert (
        next(iter(hazard_counts(hazards).items())) == ("inverse-sigmoid", 1) and hazard_counts(hazards)["narrow"] == 2
    )
