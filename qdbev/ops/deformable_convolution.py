"""DCNv2 (arXiv 1811.11168) and DCNv1 (1703.06211): mmcv's deformable convolutions for tensors of any memory format.

mmcv's kernels, on CPU and GPU, read their inputs as if channels were the outermost in memory, whatever the strides say:
in channels-last format, in which the rest of the backbone runs, their result is wrong without a warning (mmcv 2.1.0).
On a CPU the same is computed by torch's sampling and one product, which takes about half the time of mmcv's kernel or
less, and a seventh or less backward.

Shapes: B samples, G groups of offsets, g groups of weights, C channels, K taps of the kernel, H W of a map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.ops import DeformConv2dPack, ModulatedDeformConv2dPack, deform_conv2d, modulated_deform_conv2d
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from qdbev.ops.shape_only import shape_only

_IMAGES_AT_ONCE = 32  # in the kernel of DCNv1, which asks for a divisor of their number


class DeformableConv(ModulatedDeformConv2dPack):  # type: ignore[misc]  # mmcv is untyped
    """mmcv's layer, with its names of parameters, whose kernel gets everything in the order that it reads."""

    def forward(self, x: Tensor) -> Tensor:
        """Offsets and mask from the input, then the convolution.

        Args:
            x: Map (B, C, H, W).

        Returns:
            Map (B, C', H', W').
        """
        first, second, mask = self.conv_offset(x).chunk(3, dim=1)
        tensors = (x, torch.cat((first, second), dim=1), mask.sigmoid(), self.weight)
        ready = [_ready(each) for each in tensors]
        if x.device.type == "cpu":
            return _sampled(self, *ready[:2], weight=ready[3], mask=ready[2]).to(x.dtype)
        found: Tensor = modulated_deform_conv2d(
            *ready, self.bias, self.stride, self.padding, self.dilation, self.groups, self.deform_groups
        )
        return found.to(x.dtype)


class DeformableConvV1(DeformConv2dPack):  # type: ignore[misc]  # mmcv is untyped
    """mmcv's layer without modulation, likewise; any number of images may come at once."""

    def forward(self, x: Tensor) -> Tensor:
        """Offsets from the input, then the convolution.

        Args:
            x: Map (B, C, H, W).

        Returns:
            Map (B, C', H', W').
        """
        ready = [_ready(each) for each in (x, self.conv_offset(x), self.weight)]
        if x.device.type == "cpu":
            return _sampled(self, *ready[:2], weight=ready[2]).to(x.dtype)
        together = next(count for count in range(_IMAGES_AT_ONCE, 0, -1) if len(x) % count == 0)
        found: Tensor = deform_conv2d(
            *ready, self.stride, self.padding, self.dilation, self.groups, self.deform_groups, False, together
        )
        return found.to(x.dtype)

    def _load_from_state_dict(self, *args: Any) -> None:
        """As torch's; mmcv's renames what it had in 2019 and prints a line each time."""
        nn.Module._load_from_state_dict(self, *args)


_OWN: dict[type[nn.Module], type[nn.Module]] = {
    ModulatedDeformConv2dPack: DeformableConv,
    DeformConv2dPack: DeformableConvV1,
}


def take_over_deformable(model: nn.Module) -> None:
    """Let layers of these very classes of mmcv run as ours, in place, under the same names and without its kernels."""
    for module in model.modules():
        module.__class__ = _OWN.get(type(module), type(module))


def _ready(tensor: Tensor) -> Tensor:
    """As the kernel reads it; bf16 and fp16, of autocast, as floats: on a CPU it computes in nothing smaller."""
    return (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).contiguous()


def _sampled(layer: Any, x_BCHW: Tensor, offset_BAHW: Tensor, *, weight: Tensor, mask: Tensor | None = None) -> Tensor:
    """The convolution by ``grid_sample``: what each tap sees, then the product with the weights."""
    samples, groups, (rows, columns) = len(x_BCHW), layer.deform_groups, offset_BAHW.shape[-2:]
    y_x = offset_BAHW.reshape(samples * groups, -1, 2, rows, columns) + _taps(layer, rows=rows, columns=columns)
    sizes = y_x.new_tensor(x_BCHW.shape[-2:])[:, None, None]
    grid = ((2 * y_x + 1) / sizes - 1).flip(2).permute(0, 1, 3, 4, 2).flatten(1, 2)
    channels = x_BCHW.reshape(samples * groups, -1, *x_BCHW.shape[-2:])
    seen = F.grid_sample(channels, grid, align_corners=False).unflatten(-2, (-1, rows))
    if mask is not None:
        seen = seen * mask.reshape(samples * groups, 1, -1, rows, columns)
    patches = seen.reshape(samples, layer.groups, -1, rows * columns)
    found = (weight.reshape(layer.groups, -1, patches.shape[2]) @ patches).reshape(samples, -1, rows, columns)
    bias = getattr(layer, "bias", None)
    return found if bias is None else found + bias[:, None, None]


def _taps(layer: Any, *, rows: int, columns: int) -> Tensor:
    """Where the taps look without offsets, (K, 2, H, W): y and x in pixels."""
    sides = []
    for side, count in enumerate((rows, columns)):
        stride, padding, dilation, kernel = (
            _pair(getattr(layer, name))[side] for name in ("stride", "padding", "dilation", "kernel_size")
        )
        sides.append((torch.arange(count) * stride - padding) + torch.arange(kernel)[:, None] * dilation)
    y_kH, x_kW = sides
    shape = (len(y_kH), len(x_kW), rows, columns)
    y, x = y_kH[:, None, :, None].expand(shape), x_kW[None, :, None, :].expand(shape)
    return torch.stack([y, x], 2).flatten(0, 1)


@contextmanager
def deformable_shapes(model: nn.Module) -> Iterator[None]:
    """Deformable convolutions run their offset branch and give an empty map: their kernel knows no meta device."""
    layers = [module for module in model.modules() if isinstance(module, (DeformConv2dPack, ModulatedDeformConv2dPack))]
    for layer in layers:
        layer.forward = _shape_of(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _shape_of(layer: Any) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        offsets = layer.conv_offset(x)
        return shape_only(x, offsets, shape=(len(x), layer.out_channels, *offsets.shape[-2:]))

    return forward
