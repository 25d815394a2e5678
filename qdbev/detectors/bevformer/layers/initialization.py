"""First values of the head's parameters, as measured on the official code."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from qdbev.detectors.bevformer.layers.decoder import BEVCrossAttention
from qdbev.detectors.bevformer.layers.sampling_heads import reset_sampling
from qdbev.detectors.bevformer.layers.spatial_cross_attention import PillarDeformableAttention, SpatialCrossAttention
from qdbev.detectors.bevformer.layers.temporal_self_attention import TemporalSelfAttention
from qdbev.detectors.queries.branches import start_classes
from qdbev.detectors.queries.references import refuse_unknown_init, spread_queries


def initialize(
    transformer: nn.Module, *, class_branches: Iterable[nn.Module], query_embedding: nn.Embedding, query_init: str
) -> None:
    """Xavier for the transformer's matrices, stars for the sampling layers, a low prior for the classes.

    Branch weights, biases of the feed-forward blocks and all embedding tables keep torch's own first values, as in the
    official code.

    Args:
        transformer: A ``PerceptionTransformer``; it and the others are changed in place.
        class_branches: Each ends in the linear layer that gives the class logits.
        query_embedding: The table of object queries.
        query_init: "random" as in the official code, or "grid": object queries start spread over the range.

    Raises:
        ValueError: Unknown ``query_init``.
    """
    refuse_unknown_init(query_init)
    for parameter in transformer.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
    nn.init.normal_(transformer.get_parameter("level_embeds"))
    nn.init.normal_(transformer.get_parameter("cams_embeds"))
    reference_points = transformer.get_submodule("reference_points")
    assert isinstance(reference_points, nn.Linear)
    nn.init.zeros_(reference_points.bias)
    for module in transformer.modules():
        _reset_attention(module)
    start_classes(class_branches)
    if query_init == "grid":
        spread_queries(query_embedding, reference_points=reference_points)


def _reset_attention(module: nn.Module) -> None:
    if isinstance(module, TemporalSelfAttention | PillarDeformableAttention | BEVCrossAttention):
        reset_sampling(module.sampling_offsets, module.attention_weights, heads=module.heads, points=module.points)
        nn.init.zeros_(module.value_proj.bias)
    if isinstance(module, TemporalSelfAttention | SpatialCrossAttention | BEVCrossAttention):
        nn.init.zeros_(module.output_proj.bias)
