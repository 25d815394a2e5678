"""Batch norm folding: outputs unchanged, the structure repeatable, and what must not be folded."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from qdbev.quantization.equalisation.folding import apply_folding, find_pairs, fold_batchnorm


def lively(model: nn.Module, *, seed: int = 0) -> nn.Module:
    """Random statistics and affine numbers, eval mode."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for buffer in (module.running_mean, module.running_var):
                if buffer is not None:
                    buffer.uniform_(0.3, 2.0)
            if module.affine:
                nn.init.uniform_(module.weight, -1.5, 1.5)
                nn.init.normal_(module.bias)
    return model.eval()


class Block(nn.Module):
    """mmdet's basic block: bn1 and bn2 beside conv1 and conv2, in-place ReLU, a downsample Sequential."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, out, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Sequential(nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(out + self.downsample(x))


class ConvModule(nn.Module):
    """mmcv's: conv with bias, norm, activation."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, out, 3, groups=2, bias=True)
        self.bn = nn.BatchNorm2d(out, affine=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.bn(self.conv(x)))


def toy() -> nn.Module:
    return lively(nn.Sequential(Block(4, 6), Block(6, 6), ConvModule(6, 8), nn.Flatten(), nn.LazyLinear(5)))


def built() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model, x = toy(), torch.randn(2, 4, 7, 7)
    model(x)  # makes the lazy layer
    return model, x


def test_outputs_do_not_change_and_no_norm_is_left() -> None:
    model, x = built()
    expected = model(x)
    folding = fold_batchnorm(model, lambda: model(x))
    assert folding.unfolded == {} and len(folding.pairs) == 7
    assert ("0.downsample.0", "0.downsample.1") in folding.pairs and ("2.conv", "2.bn") in folding.pairs
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)


def test_by_hand() -> None:
    # gamma 2, beta 1, mean 3, var 4 (eps 0): factor 1; weight 5 -> 5, bias 7 -> (7 - 3) * 1 + 1 = 5
    conv, norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0.0)
    for tensor, value in ((conv.weight, 5.0), (conv.bias, 7.0), (norm.weight, 2.0), (norm.bias, 1.0)):
        nn.init.constant_(tensor, value)
    norm.running_mean.fill_(3.0)
    norm.running_var.fill_(4.0)
    model = nn.Sequential(conv, norm)
    fold_batchnorm(model, lambda: model(torch.zeros(1, 1, 1, 1)))
    assert conv.weight.item() == 5.0 and conv.bias.item() == 5.0


def test_looking_changes_nothing() -> None:
    model, x = built()
    model.train()
    before = copy.deepcopy(model.state_dict())
    assert len(find_pairs(model, lambda: model(x)).pairs) == 7
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_structure_repeats_without_a_trace_and_loads_strictly() -> None:
    model, x = built()
    fresh, _ = built()
    folding = fold_batchnorm(model, lambda: model(x))
    apply_folding(fresh, folding.pairs)
    fresh.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(fresh(x), model(x))


def test_applying_to_another_model_is_refused() -> None:
    model, _ = built()
    with pytest.raises(ValueError, match=r"cannot fold 0\.bn9 into 0\.conv1"):
        apply_folding(model, [("0.conv1", "0.bn9")])


def test_new_biases_train_where_weights_train() -> None:
    model, x = built()
    model[0].conv1.weight.requires_grad_(False)  # type: ignore[union-attr]
    fold_batchnorm(model, lambda: model(x))
    assert not model[0].conv1.bias.requires_grad and model[0].conv2.bias.requires_grad  # type: ignore[union-attr]


class Awkward(nn.Module):
    """Norms that must stay, each for its own reason, and one good pair among them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(7))
        self.after_relu = nn.BatchNorm2d(3)
        self.read_twice = nn.BatchNorm2d(3)
        self.shared = nn.BatchNorm2d(3)
        self.sometimes = nn.BatchNorm2d(3)
        self.unused = nn.BatchNorm2d(3)
        self.no_statistics = nn.BatchNorm2d(3, track_running_stats=False)
        self.good = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.after_relu(torch.relu(self.conv[0](x)))
        b = self.conv[1](x)
        b = self.read_twice(b) + b
        c = self.shared(self.conv[2](x)) + self.shared(self.conv[3](x))
        d = self.sometimes(self.conv[4](x)) + self.conv[4](a)
        e = self.no_statistics(self.conv[5](x))
        return a + b + c + d + e + self.good(self.conv[6](x))


def test_norms_that_must_stay_say_why() -> None:
    model, x = lively(Awkward()), torch.randn(2, 3, 4, 4)
    expected = model(x)
    folding = fold_batchnorm(model, lambda: model(x))
    assert folding.pairs == (("conv.6", "good"),)
    assert set(folding.unfolded) == {"after_relu", "read_twice", "shared", "sometimes", "unused", "no_statistics"}
    for name, words in {
        "after_relu": "straight from",
        "read_twice": "something else reads the output of conv.1",
        "shared": "shared by conv.2, conv.3",
        "sometimes": "also runs without it",
        "unused": "did not run",
        "no_statistics": "no running statistics",
    }.items():
        assert words in folding.unfolded[name], name
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)


def test_a_tensor_in_the_place_of_one_that_is_gone_is_not_taken_for_it() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(30))
            self.convs = nn.ModuleList(nn.Conv2d(3, 3, 1) for _ in range(30))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            outs = [norm(torch.relu(x)) for norm in self.norms]
            return torch.stack(outs + [conv(x) for conv in self.convs]).sum(0)

    model, x = lively(Model()), torch.randn(2, 3, 4, 4)
    unfolded = fold_batchnorm(model, lambda: model(x)).unfolded
    assert len(unfolded) == 30 and all("straight from" in reason for reason in unfolded.values())


def test_a_head_shared_by_levels_is_folded() -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.bn(self.conv(x)).sum() + self.bn(self.conv(x[..., ::2])).sum()

    model, x = lively(Head()), torch.randn(1, 3, 6, 6)
    expected = model(x)
    assert fold_batchnorm(model, lambda: model(x)).pairs == (("conv", "bn"),)
    torch.testing.assert_close(model(x), expected, atol=1e-4, rtol=1e-5)


def test_linear_and_one_dimensional_norm() -> None:
    model, x = lively(nn.Sequential(nn.Linear(4, 3, bias=False), nn.BatchNorm1d(3))), torch.randn(5, 4)
    expected = model(x)
    assert fold_batchnorm(model, lambda: model(x)).pairs == (("0", "1"),)
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("deformable", [False, True])
def test_resnet_of_mmdet(deformable: bool) -> None:
    backbones = pytest.importorskip("mmdet.models.backbones")
    extra = {"dcn": {"type": "DCNv2", "deform_groups": 1}, "stage_with_dcn": (False, True)} if deformable else {}
    torch.manual_seed(0)
    model = backbones.ResNet(
        50, base_channels=8, num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(1,), **extra
    )
    lively(model)
    x = torch.randn(1, 3, 32, 32)
    expected = model(x)[0].detach()
    folding = fold_batchnorm(model, lambda: model(x))
    assert folding.unfolded == {} and len(folding.pairs) == 1 + 3 * 3 + 1 + 4 * 3 + 1
    torch.testing.assert_close(model(x)[0], expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-4)
    model.train()  # mmdet's own train() looks at the norms
