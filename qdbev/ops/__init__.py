"""Operators: sampling, and products of integers; a compiled kernel where there is one, pure torch elsewhere."""

from __future__ import annotations

from qdbev.ops.deformable_attention import (
    Rows,
    deformable_attention,
    exporting_rows,
    exports_all_pairs,
    has_cpu_kernel,
    has_cuda_kernel,
    has_triton,
)
from qdbev.ops.integer_products import Bytes, integer_weight_bits
from qdbev.ops.listening import listening

__all__ = [
    "Bytes",
    "Rows",
    "deformable_attention",
    "exporting_rows",
    "exports_all_pairs",
    "has_cpu_kernel",
    "has_cuda_kernel",
    "has_triton",
    "integer_weight_bits",
    "listening",
]
