"""Multi-head attention with quantized in and out projections; softmax and the two attention products stay in float.

The projections of ``nn.MultiheadAttention`` are not called as modules, so nothing that swaps or hooks modules sees
them: ``in_proj_weight`` is a raw parameter and ``out_proj`` is only read. Here each is written out.

Shapes: N batch, L queries, S keys, E embedding, H heads, D = E / H.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qdbev.quantization.grid.recomputation import recomputing
from qdbev.quantization.layers.products import Linear, quantized_product
from qdbev.quantization.layers.quantized import QuantizedLayer, through
from qdbev.quantization.layers.quantizer import Quantizer


class QuantMultiheadAttention(QuantizedLayer, nn.MultiheadAttention):
    """``MultiheadAttention`` with quantizers on query, key, value, both projection weights and the last input.

    With all of them off it is ``nn.MultiheadAttention`` itself.
    """

    weight_names = ("in_proj_weight", "out_proj.weight")
    input_names = ("query_quantizer", "key_quantizer", "value_quantizer", "out_proj.input_quantizer")

    in_proj_weight_quantizer: Quantizer | None
    query_quantizer: Quantizer | None
    key_quantizer: Quantizer | None
    value_quantizer: Quantizer | None

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As ``nn.MultiheadAttention``."""
        if all(quantizer.state == "off" for quantizer in self.quantizers()):
            return super().forward(
                query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
            )
        batched = query.ndim == 3
        query_NLE, key_NSE, value_NSE = (self._batch_first(x, batched=batched) for x in (query, key, value))
        query_NHLD, key_NHSD, value_NHSD = self._project(query_NLE, key_NSE, value_NSE)
        mask = self._merge_masks(attn_mask, key_padding_mask, like=query_NHLD, batched=batched)
        out_NHLD, weights_NHLS = self._attend(query_NHLD, key_NHSD, value_NHSD, mask=mask, need_weights=need_weights)
        out = self._project_out(out_NHLD.transpose(1, 2).flatten(2))
        if weights_NHLS is not None and average_attn_weights:
            weights_NHLS = weights_NHLS.mean(1)
        if not batched:
            return out.squeeze(0), None if weights_NHLS is None else weights_NHLS.squeeze(0)
        return (out if self.batch_first else out.transpose(0, 1)), weights_NHLS

    def _batch_first(self, x: Tensor, *, batched: bool) -> Tensor:
        if not batched:
            return x.unsqueeze(0)
        return x if self.batch_first else x.transpose(0, 1)

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantize the inputs, project, and split into heads (N, H, ., D)."""
        weights = through(self.in_proj_weight_quantizer, self.in_proj_weight).chunk(3)
        biases: tuple[Tensor | None, ...] = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        quantizers = (self.query_quantizer, self.key_quantizer, self.value_quantizer)
        inputs = [through(quantizer, x) for quantizer, x in zip(quantizers, (query, key, value), strict=True)]
        with recomputing():
            heads = [
                F.linear(x, weight, bias).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
                for x, weight, bias in zip(inputs, weights, biases, strict=True)
            ]
        return heads[0], heads[1], heads[2]

    def _project_out(self, x_NLE: Tensor) -> Tensor:
        projection: Any = self.out_proj
        return quantized_product(Linear(), x_NLE, projection)

    def _merge_masks(
        self, attn_mask: Tensor | None, key_padding_mask: Tensor | None, *, like: Tensor, batched: bool
    ) -> Tensor | None:
        """Return one additive float mask broadcastable to (N, H, L, S), or None."""
        merged = None
        if attn_mask is not None:
            merged = _additive(attn_mask, like=like)
            if merged.ndim == 3:
                merged = merged.unflatten(0, (like.shape[0], self.num_heads))
        if key_padding_mask is not None:
            padding = _additive(key_padding_mask if batched else key_padding_mask.unsqueeze(0), like=like)
            padding = padding[:, None, None, :]
            merged = padding if merged is None else merged + padding
        return merged

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Softmax attention in float; the explicit form where the weights are wanted."""
        dropout = self.dropout if self.training else 0.0
        if not need_weights:
            return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout), None
        scores = (query / math.sqrt(self.head_dim)) @ key.transpose(-2, -1)
        weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
        weights = F.dropout(weights, p=dropout, training=dropout > 0.0)
        return weights @ value, weights


def _additive(mask: Tensor, *, like: Tensor) -> Tensor:
    """Turn a mask where True forbids into one that is added; pass float masks."""
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, float("-inf"))
