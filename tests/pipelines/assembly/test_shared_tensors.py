"""One tensor under several names: written once with its aliases, quantized once, counted once, loaded whole."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, load_model
from torch import Tensor, nn

from pipelines.assembly.strict_loading import Misfit, load_strictly
from pipelines.assembly.tensors import write_tensors
from qdbev.engine.average import AverageWeights
from qdbev.quantization import (
    WeightGrid,
    adaptive_rounding,
    bops,
    compensate_rounding,
    count_macs,
    learn_ranges,
    make_plan,
    mixed_size_mb,
    nominal_size_mb,
    observing,
    pack_model,
    packed_size_bytes,
    quantize,
    quantized_layers,
    reconstruct,
    set_parts,
    size_bytes,
    unpack_model,
    weights_by_site,
)


class SharedBranches(nn.Module):
    """Decoder layers with one branch for all, as PETR has them."""

    def __init__(self) -> None:
        super().__init__()
        branch = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.branches = nn.ModuleList([branch] * 3)

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for layer, branch in zip(self.layers, self.branches, strict=True):
            x = layer(x).relu()
            outputs.append(branch(x))
        return torch.stack(outputs)


class TiedWeights(nn.Module):
    """Two layers that hold one weight, with biases of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.between, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.last.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.first(x)).relu())


class TiedTable(nn.Module):
    """A table that scores are products with."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.body, self.scores = nn.Embedding(8, 8), nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        self.scores.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(self.body(x + self.table.weight.sum(0)))


class SharedBuffer(nn.Module):
    """A buffer, and a view of it, that two modules register, and a layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(8, 8)
        self.same = self.body
        self.register_buffer("anchors", torch.randn(8))
        self.register_buffer("copies", self.anchors)
        self.register_buffer("part", self.anchors[:4])

    def forward(self, x: Tensor) -> Tensor:
        return self.same(x) + self.anchors


MODELS = [SharedBranches, TiedWeights, TiedTable, SharedBuffer]
ALIASES = {SharedBranches: 8, TiedWeights: 1, TiedTable: 1, SharedBuffer: 3}
Make = Callable[[], nn.Module]


def built(make: Make) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return make().eval(), torch.randn(16, 8)


def calibrated(make: Make, *, follow: bool = False) -> tuple[nn.Module, Tensor]:
    model, x = built(make)
    plan = make_plan(model, parts={"all": [""]}, weight_bits=4, activation_bits=6)
    quantize(model, plan, weights=WeightGrid(follow=follow))
    with torch.no_grad(), observing(model):
        model(x)
    set_parts(model, ["all"])
    return model, x


@pytest.mark.parametrize("make", MODELS)
def test_a_float_model_is_written_once_and_loads_whole(make: Make, tmp_path: Path) -> None:
    model, x = built(make)
    path = tmp_path / "model.safetensors"
    write_tensors(path, model.state_dict())
    written = load_file(path)
    assert len(written) == len(model.state_dict()) - ALIASES[make]  # type: ignore[index]
    with safe_open(path, "pt") as file:
        assert {**file.metadata()}.keys() == model.state_dict().keys() - written.keys()
    other = make().eval()
    load_strictly(other, state=written, origin="it")
    assert torch.equal(other(x), model(x))
    without = {name: value for name, value in written.items() if not name.startswith(("body", "layers.0", "between"))}
    with pytest.raises(Misfit, match="missing"):
        load_strictly(other, state=without, origin="it")


def test_safetensors_own_loader_reads_the_aliases(tmp_path: Path) -> None:
    model, x = built(SharedBranches)
    write_tensors(tmp_path / "model.safetensors", model.state_dict())
    other = SharedBranches().eval()
    load_model(other, tmp_path / "model.safetensors")
    assert torch.equal(other(x), model(x))


def test_what_has_no_aliases_has_no_header(tmp_path: Path) -> None:
    write_tensors(tmp_path / "model.safetensors", nn.Linear(3, 2).state_dict())
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() is None


@torch.no_grad()
@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize("make", MODELS)
def test_a_quantized_model_is_packed_once_and_loads_as_what_it_was(make: Make, follow: bool, tmp_path: Path) -> None:
    model, x = calibrated(make, follow=follow)
    expected = model(x)
    packed = pack_model(model, rest="fp32")
    half = pack_model(model)
    assert size_bytes(half) == packed_size_bytes(model)
    weights = {id(value) for name, value in packed.items() if name.endswith("_packed")}
    assert len(weights) == len(
        {id(w.value) for layer in quantized_layers(model).values() for w in layer.quantized_weights()}
    )
    for tensors, restore in ((packed, unpack_model), (model.state_dict(), dict)):
        write_tensors(tmp_path / "model.safetensors", tensors)
        other = make().eval()
        quantize(other, make_plan(other, parts={"all": [""]}, weight_bits=4, activation_bits=6))
        load_strictly(other, state=restore(load_file(tmp_path / "model.safetensors")), origin="it")
        set_parts(other, ["all"])
        torch.testing.assert_close(other(x), expected, rtol=1e-6, atol=1e-6)


def test_sizes_count_a_weight_once_and_operations_each_time_it_is_applied() -> None:
    for make, weights, macs in ((SharedBranches, 3 * 64 + 64 + 24, 3 * (64 + 64 + 24)), (TiedWeights, 128, 192)):
        model, x = built(make)
        plan = make_plan(model, parts={"all": [""]}, weight_bits=4, activation_bits=6)
        counts = weights_by_site(model, plan)
        assert sum(counts.values()) == weights
        trainable = sum(parameter.numel() for parameter in model.parameters())
        size = mixed_size_mb(plan, weights=counts, trainable=trainable, bits=32)
        assert size == pytest.approx(nominal_size_mb(model) - weights * 28 / 8 / 2**20)
        lines = count_macs(model, lambda model=model, x=x: model(x[:1]))
        assert bops(plan, lines).total == 24 * macs


@pytest.mark.parametrize("make", MODELS)
def test_ranges_of_a_shared_weight_are_learned_once(make: Make) -> None:
    model, x = calibrated(make)
    learn_ranges(model, weights=True, inputs=True)
    model.train()
    model(x).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@torch.no_grad()
@pytest.mark.parametrize("method", ["gptq", "adaround", "brecq"])
def test_rounding_leaves_weights_that_two_layers_hold_and_says_so(method: str) -> None:
    model, x = calibrated(TiedWeights)
    set_parts(model, [])
    reference, before = copy.deepcopy(model), model.first.weight.clone()
    run = lambda network: network(x)  # noqa: E731
    if method == "gptq":
        done = compensate_rounding(model, lambda: run(model), ["all"])
    elif method == "adaround":
        done = adaptive_rounding(model, reference, run, ["all"], iterations=5, learning_rate=0.01)
    else:
        done = reconstruct(model, reference, run, ["all"], iterations=5, learning_rate=0.01)  # type: ignore[assignment]
    refused = {path for path, reason in done.refused.items() if "another layer holds its weight" in reason}
    assert {"first.weight", "last.weight"} <= refused
    assert torch.equal(model.first.weight, before)


def test_an_average_has_shared_weights_under_all_their_names() -> None:
    model, _ = built(SharedBranches)
    average = AverageWeights(model, decay=0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    average.update()
    state = average.model_state()
    assert state["branches.0.0.weight"] is state["branches.2.0.weight"]
    assert not torch.equal(state["branches.0.0.weight"], model.branches[0][0].weight)  # type: ignore[index]
