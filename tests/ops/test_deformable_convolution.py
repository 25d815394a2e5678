"""The deformable convolution against equation 1 of its paper, sampled with grid_sample, in every memory format."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from qdbev.ops.deformable_convolution import DeformableConv, DeformableConvV1, take_over_deformable
from qdbev.quantization.layers.quantized import deformable_class


def written_out(x, layer):
    """3x3, stride 1, padding 1: each tap looks where its offset says, times its mask."""
    found = layer.conv_offset(x)
    height, width = x.shape[2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    total = 0
    for tap in range(9):
        y = rows + tap // 3 - 1 + found[:, 2 * tap]
        x_ = columns + tap % 3 - 1 + found[:, 2 * tap + 1]
        grid = torch.stack([2 * x_ / (width - 1) - 1, 2 * y / (height - 1) - 1], -1)
        seen = F.grid_sample(x, grid, align_corners=True) * found[:, 18 + tap, None].sigmoid()
        total = total + torch.einsum("bchw,oc->bohw", seen, layer.weight[:, :, tap // 3, tap % 3])
    return total


@pytest.mark.parametrize("layer_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("input_format", [torch.contiguous_format, torch.channels_last])
def test_result_and_gradients_in_every_memory_format(layer_format, input_format):
    torch.manual_seed(0)
    layer = DeformableConv(6, 5, kernel_size=3, padding=1, bias=False)
    torch.nn.init.normal_(layer.conv_offset.weight, std=0.2)
    torch.nn.init.normal_(layer.conv_offset.bias)
    layer = layer.to(memory_format=layer_format)
    x = torch.randn(2, 6, 4, 7).to(memory_format=input_format).requires_grad_()
    upstream = torch.randn(2, 5, 4, 7).to(memory_format=input_format)
    wanted, found = written_out(x, layer), layer(x)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    inputs = [x, *layer.parameters()]
    for one, other in zip(
        torch.autograd.grad(found, inputs, upstream), torch.autograd.grad(wanted, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (DeformableConv, {"stride": 2, "dilation": 2, "groups": 2, "deform_groups": 2}),
        (DeformableConvV1, {"stride": (1, 2), "groups": 4, "deform_groups": 4, "bias": False}),
    ],
)
def test_on_a_cpu_it_is_what_mmcvs_kernel_computes(kind, options):
    torch.manual_seed(0)
    layer = kind(8, 12, kernel_size=3, padding=1, **options)
    torch.nn.init.normal_(layer.conv_offset.bias, std=3)  # far over the borders, too
    x = torch.randn(3, 8, 9, 13, requires_grad=True)
    both = [forward(layer, x) for forward in (kind.forward, kind.__mro__[1].forward)]
    ours, mmcvs = ((found, *torch.autograd.grad(found.square().sum(), [x, *layer.parameters()])) for found in both)
    torch.testing.assert_close(ours, mmcvs, atol=1e-4, rtol=1e-5)


def test_its_quantized_form_is_made_of_it():
    assert issubclass(deformable_class(DeformableConv), DeformableConv)


@pytest.mark.parametrize("kind", [DeformableConv, DeformableConvV1])
def test_it_computes_in_single_precision_where_autocast_halves_its_input(kind):
    torch.manual_seed(0)
    layer = kind(6, 5, kernel_size=3, padding=1, bias=False)
    x = torch.randn(2, 6, 4, 7).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer(x)
    found.float().sum().backward()
    assert found.dtype == torch.bfloat16 and layer.weight.grad is not None and layer.weight.grad.any()
    torch.testing.assert_close(found.float(), layer(x.float()), atol=2e-2, rtol=2e-2)


def test_layers_of_mmcv_are_taken_over_in_place_and_classes_made_of_them_are_left():
    from mmcv.ops import DeformConv2dPack, ModulatedDeformConv2dPack

    class Special(ModulatedDeformConv2dPack):
        pass

    torch.manual_seed(0)
    model = torch.nn.ModuleList(
        each(4, 6, 3, padding=1) for each in (DeformConv2dPack, ModulatedDeformConv2dPack, Special)
    )
    for layer in model:
        torch.nn.init.normal_(layer.conv_offset.weight, std=0.3)
    image, state = torch.randn(2, 4, 5, 7), list(model.state_dict())
    with torch.no_grad():
        expected = [layer(image) for layer in model]
        take_over_deformable(model)
        found = [layer(image) for layer in model]
    assert [type(layer) for layer in model] == [DeformableConvV1, DeformableConv, Special]
    assert list(model.state_dict()) == state
    assert all((one - other).abs().max() < 1e-5 for one, other in zip(found, expected, strict=True))
