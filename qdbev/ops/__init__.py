"""Sampling operators: a compiled kernel where there is one, pure torch elsewhere."""

from qdbev.ops.deformable_attention import Rows, deformable_attention, has_cpu_kernel, has_cuda_kernel, has_triton

__all__ = ["Rows", "deformable_attention", "has_cpu_kernel", "has_cuda_kernel", "has_triton"]
