"""First values of the head's parameters, as measured on the official code, and a grid of first object positions.

Shapes: K object queries, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from qdbev.detectors.bevformer.layers.decoder import BEVCrossAttention, inverse_sigmoid
from qdbev.detectors.bevformer.layers.sampling_heads import reset_sampling
from qdbev.detectors.bevformer.layers.spatial_cross_attention import PillarDeformableAttention, SpatialCrossAttention
from qdbev.detectors.bevformer.layers.temporal_self_attention import TemporalSelfAttention

PRIOR_PROBABILITY = 0.01
QUERY_INITS = ("random", "grid")


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
    if query_init not in QUERY_INITS:
        raise ValueError(f"query_init is {query_init!r}, expected one of {list(QUERY_INITS)}")
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
    for branch in class_branches:
        last = list(branch.children())[-1]
        assert isinstance(last, nn.Linear)
        nn.init.constant_(last.bias, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))
    if query_init == "grid":
        spread_queries(query_embedding, reference_points=reference_points)


def _reset_attention(module: nn.Module) -> None:
    if isinstance(module, TemporalSelfAttention | PillarDeformableAttention | BEVCrossAttention):
        reset_sampling(module.sampling_offsets, module.attention_weights, heads=module.heads, points=module.points)
        nn.init.zeros_(module.value_proj.bias)
    if isinstance(module, TemporalSelfAttention | SpatialCrossAttention | BEVCrossAttention):
        nn.init.zeros_(module.output_proj.bias)


def grid_positions(count: int) -> Tensor:
    """(K, 3) positions in (0, 1): rows of nearly equal length over x and y, at half height.

    >>> grid_positions(3).tolist()
    [[0.1666666716337204, 0.5, 0.5], [0.5, 0.5, 0.5], [0.8333333134651184, 0.5, 0.5]]
    """
    rows = max(math.isqrt(count), 1)
    positions = []
    for row in range(rows):
        columns = (row + 1) * count // rows - row * count // rows
        positions += [((column + 0.5) / columns, (row + 0.5) / rows, 0.5) for column in range(columns)]
    return torch.tensor(positions)


@torch.no_grad()
def spread_queries(query_embedding: nn.Embedding, *, reference_points: nn.Linear) -> None:
    """Moves each query's position part as little as possible so that its first reference is its place in the grid."""
    channels = reference_points.in_features
    position_KC = query_embedding.weight[:, :channels]
    wanted_K3 = inverse_sigmoid(grid_positions(query_embedding.num_embeddings))
    error_K3 = wanted_K3 - reference_points(position_KC)
    position_KC += error_K3 @ torch.linalg.pinv(reference_points.weight).T
