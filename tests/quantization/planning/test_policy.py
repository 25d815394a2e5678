"""Every parameter gets a site; parts, exceptions and first and last layers by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qdbev.quantization.planning.policy import is_deformable_conv, make_plan


class ModulatedDeformConv2d(nn.Module):
    """Stands for mmcv's: the same class name and weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 4, 3, 3))
        self.register_parameter("bias", None)


class Pack(ModulatedDeformConv2d):
    def __init__(self) -> None:
        super().__init__()
        self.conv_offset = nn.Conv2d(4, 27, 3)


class Special(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) * 2


class Everything(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), Pack())
        self.head = nn.ModuleDict(
            {
                "attn": nn.MultiheadAttention(8, 2),
                "odd_attn": nn.MultiheadAttention(8, 2, kdim=4, vdim=4),
                "norm": nn.LayerNorm(8),
                "table": nn.Embedding(5, 8),
                "special": Special(8, 8),
                "up": nn.ConvTranspose2d(8, 8, 2),
                "wave": nn.ConvTranspose1d(8, 8, 2),
                "out": nn.Linear(8, 3),
            }
        )
        self.level_embeds = nn.Parameter(torch.zeros(4, 8))
        self.dropout = nn.Dropout()


PARTS = {"backbone": ["backbone"], "head": ["head", "level_embeds"]}


def plan_of(model: nn.Module, **settings: object):  # type: ignore[no-untyped-def]
    return make_plan(model, parts=PARTS, weight_bits=4, activation_bits=6, **settings)  # type: ignore[arg-type]


def test_every_kind_by_hand() -> None:
    found = {
        site.path: (site.part, site.kind, site.weight_bits, site.activation_bits) for site in plan_of(Everything())
    }
    assert found == {
        "backbone.0": ("backbone", "conv2d", 4, 6),
        "backbone.1": ("backbone", "float", 32, 32),
        "backbone.3": ("backbone", "deformable_conv", 4, 6),
        "backbone.3.conv_offset": ("backbone", "conv2d", 4, 6),
        "head.attn": ("head", "attention", 4, 6),
        "head.odd_attn": ("head", "float", 32, 32),
        "head.norm": ("head", "float", 32, 32),
        "head.table": ("head", "embedding", 4, 32),
        "head.special": ("head", "float", 32, 32),
        "head.up": ("head", "transposed_conv", 4, 6),
        "head.wave": ("head", "float", 32, 32),
        "head.out": ("head", "linear", 4, 6),
        "level_embeds": ("head", "float", 32, 32),
    }


def test_every_float_site_says_why() -> None:
    reasons = {site.path: site.reason for site in plan_of(Everything()) if site.kind == "float"}
    assert "not folded" in reasons["backbone.1"] and "kdim" in reasons["head.odd_attn"]
    assert "own forward" in reasons["head.special"] and "ConvTranspose1d" in reasons["head.wave"]
    assert "raw parameter" in reasons["level_embeds"] and "LayerNorm" in reasons["head.norm"]


def test_every_parameter_belongs_to_exactly_one_site() -> None:
    model = Everything()
    plan, modules = plan_of(model), dict(model.named_modules())
    covered: list[int] = []
    for site in plan:
        if site.path not in modules:
            covered.append(id(model.get_parameter(site.path)))
            continue
        module = modules[site.path]
        whole = isinstance(module, nn.MultiheadAttention)
        covered += [id(parameter) for parameter in module.parameters(recurse=whole)]
    assert sorted(covered) == sorted(id(parameter) for parameter in model.parameters())


def test_parameters_of_no_part_are_listed() -> None:
    with pytest.raises(ValueError, match=r"level_embeds") as caught:
        make_plan(Everything(), parts={"backbone": ["backbone"]}, weight_bits=4, activation_bits=6)
    assert "head.attn" in str(caught.value) and "backbone.0" not in str(caught.value)


def test_prefixes_that_name_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"not in the model: hed"):
        make_plan(Everything(), parts={"all": ["", "hed"]}, weight_bits=4, activation_bits=6)


def test_a_path_in_two_parts_is_refused() -> None:
    with pytest.raises(ValueError, match="two parts: a and b"):
        make_plan(Everything(), parts={"a": [""], "b": [""]}, weight_bits=4, activation_bits=6)


def test_the_longest_prefix_wins_and_parts_keep_their_order() -> None:
    plan = make_plan(Everything(), parts={"last": ["head.out"], "rest": [""]}, weight_bits=4, activation_bits=6)
    assert [site.path for site in plan if site.part == "last"] == ["head.out"]
    assert plan.sites[0].path == "head.out" and plan.parts == ("last", "rest")


def test_a_prefix_ends_at_a_dot() -> None:
    model = nn.ModuleDict({"neck": nn.Linear(2, 2), "neck2": nn.Linear(2, 2)})
    plan = make_plan(model, parts={"neck": ["neck"], "other": ["neck2"]}, weight_bits=4, activation_bits=6)
    assert plan.site("neck2").part == "other"


def test_exceptions_change_bits_and_say_so() -> None:
    plan = plan_of(Everything(), exceptions={"head.out": (8, 8), "backbone.*": (32, 32)})
    assert (plan.site("head.out").weight_bits, plan.site("head.out").activation_bits) == (8, 8)
    assert not plan.site("backbone.0").quantized and "exception 'backbone.*'" in plan.site("backbone.0").reason


def test_an_exception_that_matches_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'neck\.\*' matches no layer"):
        plan_of(Everything(), exceptions={"neck.*": (8, 8)})


def test_first_and_last_layers() -> None:
    plan = plan_of(Everything(), first_last_bits=8)
    assert [site.path for site in plan if site.weight_bits == 8] == ["backbone.0", "head.out"]
    named = plan_of(Everything(), first_last_bits=8, last_sites=["head.attn", "head.out"])
    assert [site.path for site in named if site.activation_bits == 8] == ["backbone.0", "head.attn", "head.out"]


def test_embeddings_may_stay_float() -> None:
    assert plan_of(Everything(), embedding="float").site("head.table").kind == "float"


def test_weights_alone_may_be_quantized() -> None:
    plan = make_plan(Everything(), parts={"all": [""]}, weight_bits=4, activation_bits=32)
    assert plan.site("head.out").quantized and plan.site("head.out").activation_bits == 32


@pytest.mark.parametrize("bits", [1, 17, 33, 0])
def test_impossible_bits_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="bits"):
        make_plan(Everything(), parts={"all": [""]}, weight_bits=bits, activation_bits=6)


def test_a_module_used_twice_has_one_site() -> None:
    shared = nn.Linear(2, 2)
    model = nn.ModuleDict({"a": shared, "b": shared})
    plan = make_plan(model, parts={"all": ["a", "b"]}, weight_bits=4, activation_bits=6)
    assert [site.path for site in plan] == ["a"]


def test_deformable_convolutions_are_told_by_name_and_weight() -> None:
    assert is_deformable_conv(Pack()) and not is_deformable_conv(nn.Conv2d(3, 3, 3))
