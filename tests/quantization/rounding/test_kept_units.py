"""Learned rounding that was stopped goes on bit for bit, layer by layer as well as block by block."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from qdbev.quantization import Keeper, adaptive_rounding, make_plan, observing, quantize, reconstruct
from qdbev.quantization.layers.grids import WeightGrid


class Network(nn.Module):
    """A stem, two blocks of a list, a head whose layer is shared and one that does not run."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)) for _ in range(2)])
        self.head, self.twin, self.idle = nn.Linear(8, 3), nn.Linear(8, 3), nn.Linear(2, 2)
        self.twin.weight = self.head.weight

    def forward(self, x):
        x = self.stem(x).relu()
        for block in self.blocks:
            x = x + block(x)
        return self.head(x) + self.twin(x.relu())


class Memory(Keeper):
    """Keeps copies, as a file would; a process dies after so many."""

    def __init__(self, *, dies_after=1000):
        self.tensors, self.left = {}, dies_after

    def kept(self):
        return self.tensors

    def keep(self, tensors):
        self.tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


METHODS = {
    "adaround": lambda model, run, **options: adaptive_rounding(
        model, copy.deepcopy(model), run, ["all"], iterations=6, learning_rate=0.1, rounds=3, **options
    ),
    "brecq": lambda model, run, **options: reconstruct(
        model, copy.deepcopy(model), run, ["all"], iterations=6, learning_rate=0.1, **options
    ),
    "qdrop": lambda model, run, **options: reconstruct(
        model, copy.deepcopy(model), run, ["all"], iterations=6, learning_rate=0.1, drop=0.5, **options
    ),
}


def _network():
    torch.manual_seed(0)
    model, batches = Network().eval(), [torch.randn(5, 6), torch.randn(7, 6)]
    plan = make_plan(model, parts={"all": [""]}, weight_bits=3, activation_bits=6)
    quantize(model, plan, weights=WeightGrid(follow=False))
    with torch.no_grad(), observing(model):
        for batch in batches:
            model(batch)
    return model, lambda network: [network(batch) for batch in batches]


@pytest.mark.parametrize("dies_after", [1, 2, 3])
@pytest.mark.parametrize("method", METHODS)
def test_it_goes_on_bit_for_bit_and_does_nothing_twice(method, dies_after):
    whole, run = _network()
    expected = METHODS[method](whole, run)
    memory = Memory(dies_after=dies_after)
    with pytest.raises(KeyboardInterrupt):
        METHODS[method](_network()[0], run, keeper=memory)
    done_before = {name: tensor.clone() for name, tensor in memory.tensors.items() if name.endswith(".errors")}
    again, counted = _network()[0], []
    done = METHODS[method](again, lambda network: counted.append(network) or run(network), keeper=memory)
    assert list(done.errors.items()) == list(expected.errors.items()) and done.refused == expected.refused
    for (name, value), other in zip(whole.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    assert all(torch.equal(memory.tensors[name], tensor) for name, tensor in done_before.items())
    counted.clear()
    METHODS[method](_network()[0], lambda network: counted.append(network) or run(network), keeper=memory)
    assert len(counted) == (0 if method == "adaround" else 1)  # blocks are found by a run


@pytest.mark.parametrize("method", METHODS)
def test_what_was_kept_of_other_layers_is_not_taken_up(method):
    model, run = _network()
    memory = Memory()
    METHODS[method](model, run, keeper=memory)
    name = next(name for name in memory.tensors if name.endswith("weight"))
    memory.tensors[name] = memory.tensors[name][:1]
    with pytest.raises(ValueError, match="is of other layers"):
        METHODS[method](_network()[0], run, keeper=memory)
