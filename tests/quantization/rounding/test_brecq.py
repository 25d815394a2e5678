"""Block reconstruction: which blocks there are, that their outputs come nearer, and that nothing else changes."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from qdbev.quantization import (
    make_plan,
    observing,
    quantize,
    quantized_layers,
    reconstruct,
    set_parts,
)
from qdbev.quantization.layers.grids import WeightGrid
from qdbev.quantization.rounding.brecq import Reconstruction
from qdbev.quantization.rounding.units import Unit, find_units, map_tensors, tensors_in


@dataclass(frozen=True)
class Around:
    """What a block reads besides its input."""

    shift_C: Tensor
    name: str


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(8, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x, *, around):
        return self.relu(x + self.second(self.relu(self.first(x))) + around.shift_C[:, None, None])


class Tower(nn.Module):
    """Layers that are in no list: one unit."""

    def __init__(self):
        super().__init__()
        self.up = nn.Linear(8, 16)
        self.down = nn.Linear(16, 8)

    def forward(self, x):
        return {"out": x + self.down(self.up(x).relu()), "copies": [x * 2]}


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(36, 8)
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.blocks = nn.ModuleList([Residual(), Residual()])
        self.tower = Tower()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.heads = nn.ModuleList([nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))])
        self.unused = nn.Linear(8, 8)

    def forward(self, image):
        x = self.stem(image)
        for block in self.blocks:
            x = block(x, around=Around(torch.linspace(-1, 1, 8), "shift"))
        x = x.flatten(2).transpose(1, 2) + self.table.weight
        x = self.tower(x)["out"]
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.heads[0](x)


UNITS = [
    Unit("stem", ("stem",)),
    Unit("blocks.0", ("blocks.0.first", "blocks.0.second")),
    Unit("blocks.1", ("blocks.1.first", "blocks.1.second")),
    Unit("tower", ("tower.up", "tower.down")),
    Unit("attention", ("attention",)),
    Unit("heads.0", ("heads.0.0", "heads.0.3")),
]


def _images(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(6, 2, 3, 12, 12, generator=generator).cumsum(-1) / 3


def _run(model, images=None):
    for image in _images(0) if images is None else images:
        model(image)


def _network(follow=False):
    torch.manual_seed(0)
    model = Network().eval()
    plan = make_plan(model, parts={"all": [""]}, weight_bits=3, activation_bits=5)
    quantize(model, plan, weights=WeightGrid(follow=follow))
    with observing(model):
        _run(model)
        model.unused(torch.ones(8))
    return model


def _reconstructed(model, run=_run, iterations=80, **others):
    return reconstruct(model, copy.deepcopy(model), run, ["all"], iterations=iterations, learning_rate=0.15, **others)


def _error(model, expected, images):
    set_parts(model, ["all"])
    with torch.no_grad():
        made = torch.stack([model(image) for image in images])
    return float((made - expected).square().mean())


def _expected(model, images):
    with torch.no_grad():
        return torch.stack([model(image) for image in images])


def test_units_are_blocks_of_lists_then_what_is_left():
    model = _network()
    set_parts(model, [])
    units = find_units(model, [path for path in quantized_layers(model) if path != "table"], run=lambda: _run(model))
    assert units == UNITS


class Learned(NamedTuple):
    """A network that was reconstructed, what it was, and what was told of it."""

    model: nn.Module
    former: nn.Module
    done: Reconstruction
    seen: list[int]


@pytest.fixture(scope="module", params=[0.0, 0.5])
def learned(request):
    """Without and with dropping: look, do not change."""
    model, seen = _network(), []
    former = copy.deepcopy(model)
    done = _reconstructed(model, drop=request.param, on_unit=seen.append)
    return Learned(model, former, done, seen)


def test_the_output_comes_nearer_also_on_inputs_it_never_saw(learned):
    (model, former, done, seen), others = learned, _images(1)
    set_parts(former, [])
    expected = [_expected(former, images) for images in (_images(0), others)]
    before = [_error(former, want, images) for want, images in zip(expected, (_images(0), others), strict=True)]
    assert list(done.errors) == UNITS and seen == [6] * 6 and not done.unchanged
    assert all(now < was for was, now in done.errors.values())
    after = [_error(model, want, images) for want, images in zip(expected, (_images(0), others), strict=True)]
    assert after[0] < 0.7 * before[0] and after[1] < 0.8 * before[1]
    assert done.refused == {
        "unused.weight": "it did not run",
        "table.weight": "a table has no input to reconstruct from",
    }


def test_what_is_stored_is_what_runs_and_ranges_are_learned(learned):
    model, before = learned.model, learned.former.state_dict()
    set_parts(model, ["all"])
    for path, layer in quantized_layers(model).items():
        for weight in layer.quantized_weights():
            if path not in ("unused", "table"):
                assert torch.equal(weight.quantizer(weight.value), weight.value)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert "tower.up.input_quantizer.scale" in changed and "tower.up.weight_quantizer.scale" not in changed
    assert not any("table" in name or "unused" in name or "bias" in name or "heads.0.1" in name for name in changed)
    assert set(model.state_dict()) == set(before)  # ranges are settled: no parameter is left over
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_equal_seeds_learn_the_same_and_dropping_learns_otherwise():
    made = []
    for options in ({"seed": 0}, {"seed": 0}, {"seed": 1}, {"seed": 0, "drop": 0.5}):
        model = _network()
        _reconstructed(model, iterations=10, **options)
        made.append(torch.cat([value.float().flatten() for value in model.state_dict().values()]))
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2]) and not torch.equal(made[0], made[3])


def test_a_block_that_is_no_better_stays_as_calibrated(monkeypatch):
    from qdbev.quantization.rounding import brecq

    model = _network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    monkeypatch.setattr(brecq.LearnedRounding, "rounded", lambda self: self.floor * 0)
    done = _reconstructed(model, iterations=3)
    assert done.unchanged == tuple(unit.path for unit in UNITS)
    assert all(was == now for was, now in done.errors.values())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_blocks_that_cannot_be_compared_are_refused():
    model = _network()
    reference = copy.deepcopy(model)
    images = _images(0)

    def run(network):
        _run(network, images[:3] if network is reference else images)

    done = reconstruct(model, reference, run, ["all"], iterations=1, learning_rate=0.1)
    assert not done.errors
    assert done.refused["stem.weight"] == "its block ran 6 times quantized and 3 times in float"


def test_ranges_that_follow_are_refused():
    with pytest.raises(ValueError, match=r"follows its weights.*frozen or learned"):
        _reconstructed(_network(follow=True))


def test_tensors_are_found_in_whatever_holds_them():
    value = ({"a": [torch.tensor(1)], "b": None}, Around(torch.tensor(2), "x"), Unit(torch.tensor(3), ()))
    assert [int(tensor) for tensor in tensors_in(value)] == [1, 2, 3]
    doubled = map_tensors(value, lambda x: 2 * x)
    assert [int(tensor) for tensor in tensors_in(doubled)] == [2, 4, 6]
    assert doubled[0]["b"] is None and doubled[1].name == "x" and isinstance(doubled[2], Unit)
