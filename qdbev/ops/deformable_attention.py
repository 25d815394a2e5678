"""Multi-scale deformable attention, Deformable DETR (arXiv 2010.04159) equation 3, without its projections.

A row is one query looking into one image. Usually each query looks into one image, the one of its sample; in
BEVFormer's spatial cross-attention a cell looks into each camera that sees it, and the looks are summed.

Shapes: E images, S tokens of all levels, J queries, R rows, M heads, L levels, P points, C channels of one head,
H W of one level.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from qdbev.ops.listening import tell_listeners
from qdbev.ops.shape_only import shape_only

_EXPORTS_ROWS = ContextVar("_EXPORTS_ROWS", default=False)
LevelShapes = Sequence[tuple[int, int]]
Form = Callable[[Tensor, LevelShapes, "Rows", Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Rows:
    """Which query looks into which image.

    Attributes:
        image_R: image of each row, in rising order.
        query_R: query of each row.
        one_each: whether it is known that each query has exactly one row.
        views: where every query of a sample looks into all images of that sample, how many these are; None otherwise.
    """

    image_R: Tensor
    query_R: Tensor
    one_each: bool = False
    views: int | None = None

    @classmethod
    def own_image(cls, *, images: int, queries: int, device: torch.device) -> Rows:
        """``queries`` queries per image, each looking into its own.

        >>> Rows.own_image(images=2, queries=2, device=torch.device("cpu")).image_R.tolist()
        [0, 0, 1, 1]
        """
        query_R = torch.arange(images * queries, device=device)
        return cls(query_R // max(queries, 1), query_R, one_each=True, views=1)

    @classmethod
    def all_images(cls, *, samples: int, views: int, queries: int, device: torch.device) -> Rows:
        """``queries`` queries per sample, each looking into all ``views`` images of its sample.

        >>> rows = Rows.all_images(samples=1, views=2, queries=2, device=torch.device("cpu"))
        >>> rows.image_R.tolist(), rows.query_R.tolist()
        ([0, 0, 1, 1], [0, 1, 0, 1])
        """
        query_SJ = torch.arange(samples * queries, device=device).view(samples, queries)
        image_R = torch.arange(samples * views, device=device).repeat_interleave(queries)
        return cls(image_R, query_SJ.repeat_interleave(views, 0).flatten(), one_each=views == 1, views=views)


def deformable_attention(
    value_ESMC: Tensor,
    *,
    level_shapes: LevelShapes,
    rows: Rows,
    references_RLP2: Tensor,
    offsets_JMLP2: Tensor,
    weights_JMLP: Tensor,
) -> Tensor:
    """Samples the images bilinearly at reference + offset and sums the samples with the attention weights.

    Zero padding outside the image; pixel centres lie at (i + 0.5) / size (``align_corners=False``). The result is the
    same in every form: our own kernels on a GPU with Triton and on a CPU with numba, mmcv's kernel on CUDA without
    Triton where it was compiled, torch operations elsewhere.

    Args:
        value_ESMC: Levels flattened row by row and concatenated, S = sum of H * W.
        level_shapes: (H, W) of each level, in pixels.
        rows: Who looks where.
        references_RLP2: (x, y) in fractions of the image, any finite numbers; the axes L and P may be 1.
        offsets_JMLP2: (x, y) in pixels of the level.
        weights_JMLP: Attention weights, usually summing to one over L and P.

    Returns:
        (J, M * C), the sum over the rows of each query, zero for a query without one; in the type of ``value_ESMC``.

    Raises:
        ValueError: the number of tokens differs from the sum of the level sizes.
    """
    tokens = sum(height * width for height, width in level_shapes)
    if value_ESMC.shape[1] != tokens:
        raise ValueError(
            f"value has {value_ESMC.shape[1]} tokens, but the levels {list(level_shapes)} have {tokens}: "
            "pass one (H, W) per level"
        )
    if value_ESMC.device.type == "meta":  # shapes alone
        shape = (len(offsets_JMLP2), value_ESMC[0, 0].numel())
        return shape_only(value_ESMC, references_RLP2, offsets_JMLP2, weights_JMLP, shape=shape)
    tell_listeners(references_RLP2, offsets_JMLP2, level_shapes)
    # half-precision coordinates would move the samples by pixels, so all of it runs in float32 at least
    precise = torch.promote_types(value_ESMC.dtype, torch.float32)
    floats = (value_ESMC, references_RLP2, offsets_JMLP2, weights_JMLP)
    value, references, offsets, weights = (each.to(precise) for each in floats)
    return _form(value, rows)(value, level_shapes, rows, references, offsets, weights).to(value_ESMC.dtype)


@contextmanager
def exporting_rows() -> Iterator[None]:
    """Inside, an exported graph lists who looks where in each frame: numbers decide shapes, but no look is in vain."""
    token = _EXPORTS_ROWS.set(True)
    try:
        yield
    finally:
        _EXPORTS_ROWS.reset(token)


def exports_all_pairs() -> bool:
    """Whether a graph is being exported in which each query looks into all images, so that shapes are fixed."""
    return torch.onnx.is_in_onnx_export() and not _EXPORTS_ROWS.get()


def has_cuda_kernel() -> bool:
    """Whether mmcv was built with its CUDA operators."""
    try:
        from mmcv.ops import get_compiling_cuda_version
    except ImportError:
        return False
    return str(get_compiling_cuda_version()).lower() not in {"not available", "none", ""}


@functools.cache
def has_cpu_kernel() -> bool:
    """Whether numba is here to compile the CPU kernel."""
    return importlib.util.find_spec("numba") is not None


@functools.cache
def has_triton() -> bool:
    """Whether Triton is here to compile the GPU kernels; torch's CUDA builds bring it."""
    return importlib.util.find_spec("triton") is not None


def _exporting() -> bool:
    return bool(torch.jit.is_tracing() or torch.onnx.is_in_onnx_export() or torch.compiler.is_compiling())


def _form(value: Tensor, rows: Rows) -> Form:
    """What computes it for values of this device."""
    if not _exporting():
        if value.is_cpu and has_cpu_kernel():
            return cpu_form
        if value.is_cuda and has_triton():
            return triton_form
        if value.is_cuda and has_cuda_kernel():
            return mmcv_form
    if _EXPORTS_ROWS.get():
        return listed_form
    return dense_form if rows.views is None else regular_form


def listed_form(
    value: Tensor, level_shapes: LevelShapes, rows: Rows, references: Tensor, offsets: Tensor, weights: Tensor
) -> Tensor:
    """The torch operations of ``deformable_attention_gathered.py``."""
    from qdbev.ops.deformable_attention_gathered import gathered_form

    looks = gathered_form(
        value,
        level_shapes,
        image_R=rows.image_R,
        query_R=None if rows.one_each else rows.query_R,
        references_RLP2=references,
        offsets_JMLP2=offsets,
        weights_JMLP=weights,
    )
    if rows.one_each:
        return looks
    # torch's exporter writes ``index_add`` so that of rows of one query only the last one counts
    return looks.new_zeros(len(weights), looks.shape[1]).scatter_add(0, rows.query_R[:, None].expand_as(looks), looks)


def cpu_form(
    value: Tensor, level_shapes: LevelShapes, rows: Rows, references: Tensor, offsets: Tensor, weights: Tensor
) -> Tensor:
    """The kernel of ``deformable_attention_cpu.py``."""
    from qdbev.ops.deformable_attention_cpu import DeformableAttentionCPU

    shapes = torch.tensor(list(level_shapes))
    out: Tensor = DeformableAttentionCPU.apply(value, shapes, rows.image_R, rows.query_R, references, offsets, weights)
    return out.flatten(1)


def triton_form(
    value: Tensor, level_shapes: LevelShapes, rows: Rows, references: Tensor, offsets: Tensor, weights: Tensor
) -> Tensor:
    """The kernels of ``deformable_attention_triton.py``."""
    from qdbev.ops.deformable_attention_triton import DeformableAttentionTriton

    shapes = _sizes(tuple(tuple(shape) for shape in level_shapes), value.device)
    out: Tensor = DeformableAttentionTriton.apply(
        value, shapes, rows.image_R, rows.query_R, references, offsets, weights, rows.one_each
    )
    return out.flatten(1)


@functools.lru_cache(maxsize=64)
def _sizes(level_shapes: tuple[tuple[int, ...], ...], device: torch.device) -> Tensor:
    """(L, 2) on the device; kept, because to bring it there waits for what runs there."""
    return torch.tensor(level_shapes, dtype=torch.int32, device=device)


def mmcv_form(
    value: Tensor, level_shapes: LevelShapes, rows: Rows, references: Tensor, offsets: Tensor, weights: Tensor
) -> Tensor:
    """mmcv's CUDA kernel."""
    return dense_form(value, level_shapes, rows, references, offsets, weights, regular=cuda_form)


def dense_form(
    value: Tensor,
    level_shapes: LevelShapes,
    rows: Rows,
    references: Tensor,
    offsets: Tensor,
    weights: Tensor,
    *,
    regular: Callable[[Tensor, LevelShapes, Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Rows in one list per image, padded to the longest, for forms of a regular batch such as ``torch_form``."""
    counts_E = torch.bincount(rows.image_R, minlength=len(value))
    slot_R = torch.arange(len(rows.image_R), device=value.device) - (counts_E.cumsum(0) - counts_E)[rows.image_R]
    longest = int(counts_E.max()) if counts_E.numel() else 0
    size_L2 = torch.tensor([[width, height] for height, width in level_shapes], device=value.device)
    locations_RMLP2 = references[:, None] + offsets[rows.query_R] / size_L2[:, None].to(value.dtype)
    padded_locations = value.new_zeros(len(value), longest, *locations_RMLP2.shape[1:])
    padded_weights = value.new_zeros(len(value), longest, *weights.shape[1:])
    place = (rows.image_R, slot_R)
    padded_locations = padded_locations.index_put(place, locations_RMLP2)
    padded_weights = padded_weights.index_put(place, weights[rows.query_R])
    looks_R = (regular or torch_form)(value, level_shapes, padded_locations, padded_weights)[place]
    return looks_R.new_zeros(len(weights), looks_R.shape[1]).index_add(0, rows.query_R, looks_R)


def regular_form(
    value: Tensor, level_shapes: LevelShapes, rows: Rows, references: Tensor, offsets: Tensor, weights: Tensor
) -> Tensor:
    """Torch operations on shapes that no number decides, where every query looks into all images of its sample.

    Tensors of five axes at most, which is what every program that reads an exported graph takes.
    """
    assert rows.views is not None
    samples, looks = len(value) // rows.views, value.new_zeros(())

    def each_image(x_J: Tensor) -> Tensor:
        x_SVQ = x_J.flatten(2).unflatten(0, (samples, 1, -1)).expand(-1, rows.views, -1, -1, -1)
        return x_SVQ.flatten(0, 1).unflatten(-1, x_J.shape[2:])

    for level, (tokens_ETMC, (height, width)) in enumerate(_levels(value, level_shapes)):
        size_2 = torch.tensor([width, height], device=value.device)
        shifts_EQMP2 = each_image(offsets[:, :, level] / size_2.to(value.dtype))
        references_RP2 = references[:, min(level, references.shape[1] - 1)]
        locations_EQMP2 = references_RP2.unflatten(0, (len(value), -1))[:, :, None] + shifts_EQMP2
        looks = looks + _looks(tokens_ETMC, (height, width), locations_EQMP2, each_image(weights[:, :, level]))
    looks_EQC = looks.unflatten(0, (len(value), -1)).flatten(1, 2).transpose(1, 2)
    return looks_EQC.unflatten(0, (samples, rows.views)).sum(1).flatten(0, 1)


def cuda_form(value_ESMC: Tensor, level_shapes: LevelShapes, locations_EQMLP2: Tensor, weights_EQMLP: Tensor) -> Tensor:
    """mmcv's CUDA kernel on a regular batch of Q queries per image; (E, Q, M * C), float32."""
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

    shapes = torch.tensor(list(level_shapes), device=value_ESMC.device)
    starts = torch.cat([shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1]])
    out: Tensor = MultiScaleDeformableAttnFunction.apply(
        value_ESMC.contiguous(),
        shapes,
        starts,
        locations_EQMLP2.contiguous(),
        weights_EQMLP.contiguous(),
        len(value_ESMC),
    )
    return out


def torch_form(
    value_ESMC: Tensor, level_shapes: LevelShapes, locations_EQMLP2: Tensor, weights_EQMLP: Tensor
) -> Tensor:
    """Torch operations on a regular batch of Q queries per image: any device, any export; (E, Q, M * C)."""
    looks = value_ESMC.new_zeros(())
    for level, (tokens_ETMC, shape) in enumerate(_levels(value_ESMC, level_shapes)):
        looks = looks + _looks(tokens_ETMC, shape, locations_EQMLP2[:, :, :, level], weights_EQMLP[:, :, :, level])
    return looks.unflatten(0, (len(value_ESMC), -1)).flatten(1, 2).transpose(1, 2)


def _levels(value_ESMC: Tensor, level_shapes: LevelShapes) -> Iterator[tuple[Tensor, tuple[int, int]]]:
    """Tokens and size of each level."""
    sizes = [height * width for height, width in level_shapes]
    yield from zip(value_ESMC.split(sizes, dim=1), level_shapes, strict=True)


def _looks(tokens_ETMC: Tensor, level_shape: tuple[int, int], locations_EQMP2: Tensor, weights_EQMP: Tensor) -> Tensor:
    """The weighted sum of the samples of one level; (E M, C, Q)."""
    images, _, heads, channels = tokens_ETMC.shape
    queries, points = locations_EQMP2.shape[1], locations_EQMP2.shape[3]
    image = tokens_ETMC.permute(0, 2, 3, 1).reshape(images * heads, channels, *level_shape)
    grid = (locations_EQMP2 * 2 - 1).permute(0, 2, 1, 3, 4).reshape(images * heads, queries, points, 2)
    samples = F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    weights = weights_EQMP.permute(0, 2, 1, 3).reshape(images * heads, 1, queries, points)
    return (samples * weights).sum(-1)
