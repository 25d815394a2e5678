"""BEVFormer's head: BEV and object embeddings, the transformer, and the class and box branches of each decoder layer.

Shapes: B samples, N cameras, Q BEV cells, K object queries, C channels (classes for logits), D heights,
L decoder layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from mmdet3d.registry import MODELS
from torch import Tensor, nn

from qdbev.detectors.bevformer.frames.history import History
from qdbev.detectors.bevformer.layers.decoder import BEVFormerDecoder, DecoderLayer
from qdbev.detectors.bevformer.layers.encoder import BEVFormerEncoder, EncoderLayer
from qdbev.detectors.bevformer.layers.initialization import initialize
from qdbev.detectors.bevformer.layers.positional_encoding import LearnedPositionalEncoding
from qdbev.detectors.bevformer.transformer import Grid, PerceptionTransformer
from qdbev.detectors.images.frame_batch import FrameBatch
from qdbev.detectors.queries.branches import box_branch, class_branch, code_weights_parameter
from qdbev.detectors.queries.decoded import Decoded, metric


@dataclass(frozen=True)
class Encoded:
    """What the encoder gives: features (B, Q, C), and which pillar points which camera sees, bool (B, N, Q, D)."""

    bev_BQC: Tensor
    bev_mask_BNQD: Tensor


@MODELS.register_module()
class BEVFormerHead(nn.Module):
    """Everything after the neck; names as in the official checkpoints (``pts_bbox_head``)."""

    def __init__(
        self,
        *,
        classes: int,
        channels: int,
        heads: int,
        hidden: int,
        cameras: int,
        levels: int,
        bev_rows: int,
        bev_columns: int,
        heights: int,
        pc_range: tuple[float, ...],
        rotation_centre_px: tuple[float, float] | None,
        rotation_nearest: bool,
        encoder_layers: int,
        temporal_points: int,
        spatial_points: int,
        decoder_layers: int,
        decoder_points: int,
        queries: int,
        query_init: str,
        dropout: float,
        code_weights: tuple[float, ...],
    ) -> None:
        """Builds and initialises; the arguments are explained in ``build_bevformer``."""
        super().__init__()
        grid = Grid(bev_rows, bev_columns, heights, tuple(pc_range), rotation_centre_px, rotation_nearest)
        encoder = BEVFormerEncoder(
            [
                EncoderLayer(
                    channels=channels,
                    heads=heads,
                    hidden=hidden,
                    levels=levels,
                    temporal_points=temporal_points,
                    spatial_points=spatial_points,
                    heights=heights,
                    dropout=dropout,
                )
                for _ in range(encoder_layers)
            ]
        )
        decoder = BEVFormerDecoder(
            [
                DecoderLayer(channels=channels, heads=heads, hidden=hidden, points=decoder_points, dropout=dropout)
                for _ in range(decoder_layers)
            ]
        )
        self.code_weights = code_weights_parameter(code_weights)
        self.positional_encoding = LearnedPositionalEncoding(rows=bev_rows, columns=bev_columns, channels=channels)
        self.transformer = PerceptionTransformer(
            channels=channels, cameras=cameras, grid=grid, encoder=encoder, decoder=decoder
        )
        self.cls_branches = nn.ModuleList(class_branch(channels, classes=classes) for _ in range(decoder_layers))
        self.reg_branches = nn.ModuleList(box_branch(channels) for _ in range(decoder_layers))
        self.bev_embedding = nn.Embedding(bev_rows * bev_columns, channels)
        self.query_embedding = nn.Embedding(queries, 2 * channels)
        initialize(
            self.transformer,
            class_branches=self.cls_branches,
            query_embedding=self.query_embedding,
            query_init=query_init,
        )

    def encode(self, image_BNCHW_levels: list[Tensor], *, frames: FrameBatch, history: History | None) -> Encoded:
        """BEV features of one frame from its neck features."""
        cells = torch.arange(self.bev_embedding.num_embeddings, device=self.bev_embedding.weight.device)
        bev, mask = self.transformer.encode(
            image_BNCHW_levels,
            bev_embedding_QC=self.bev_embedding(cells),
            position_QC=self.positional_encoding(),
            can_bus_B18=frames.can_bus(history.present if history else (False,) * len(frames.scenes)),
            lidar2img_BN44=frames.lidar2img_BN44,
            image_size_B2=frames.image_size_B2,
            history=history,
        )
        return Encoded(bev, mask)

    def decode(self, bev_BQC: Tensor) -> Decoded:
        """Logits and metric box codes of every decoder layer."""
        states_LBKC, code = self._refined(bev_BQC)
        logits = [branch(states) for branch, states in zip(self.cls_branches, states_LBKC, strict=True)]
        return Decoded(torch.stack(logits).float(), metric(code, pc_range=self.transformer.grid.pc_range))

    def decode_last(self, bev_BQC: Tensor) -> Decoded:
        """The same of the last layer alone, which is all that prediction looks at."""
        states_LBKC, code_LBK10 = self._refined(bev_BQC)
        logits_1BKC = self.cls_branches[-1](states_LBKC[-1:])
        return Decoded(logits_1BKC.float(), metric(code_LBK10[-1:], pc_range=self.transformer.grid.pc_range))

    def _refined(self, bev_BQC: Tensor) -> tuple[Tensor, Tensor]:
        objects = torch.arange(self.query_embedding.num_embeddings, device=bev_BQC.device)
        embedding_K2C = self.query_embedding(objects)
        refined: tuple[Tensor, Tensor] = self.transformer.decode(
            bev_BQC, query_embedding_K2C=embedding_K2C, reg_branches=self.reg_branches
        )
        return refined
