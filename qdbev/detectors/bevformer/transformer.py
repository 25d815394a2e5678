"""BEVFormer's transformer: BEV queries become BEV features, object queries become boxes.

Shapes: B samples, N cameras, Q BEV cells, K object queries, S image tokens, C channels, H W of an image level,
D heights, L decoder layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qdbev.detectors.bevformer.frames.ego_motion import rotate, shift
from qdbev.detectors.bevformer.frames.geometry import cell_centres, pillar_points, visibility
from qdbev.detectors.bevformer.frames.history import History
from qdbev.detectors.bevformer.layers.decoder import BEVFormerDecoder
from qdbev.detectors.bevformer.layers.encoder import BEVFormerEncoder, View
from qdbev.detectors.bevformer.layers.temporal_self_attention import Past
from qdbev.detectors.images.frame_batch import CAN_BUS_SIZE
from qdbev.detectors.images.projection import project

OFFICIAL_LEVELS = 4


@dataclass(frozen=True)
class Grid:
    """The BEV grid and how a history map is turned onto it.

    Attributes:
        rows: cells along y.
        columns: cells along x.
        heights: points in a pillar.
        pc_range: x, y, z minimum then maximum [m].
        rotation_centre_px: fixed point of the history rotation, None for the middle of the grid.
        rotation_nearest: nearest neighbour instead of bilinear.
    """

    rows: int
    columns: int
    heights: int
    pc_range: tuple[float, ...]
    rotation_centre_px: tuple[float, float] | None
    rotation_nearest: bool

    @property
    def cell_m(self) -> tuple[float, float]:
        """Cell size along x and y [m]."""
        width, depth = self.pc_range[3] - self.pc_range[0], self.pc_range[4] - self.pc_range[1]
        return width / self.columns, depth / self.rows


class PerceptionTransformer(nn.Module):
    """Encoder, decoder and the embeddings that feed them; names as in the official checkpoints."""

    def __init__(
        self, *, channels: int, cameras: int, grid: Grid, encoder: BEVFormerEncoder, decoder: BEVFormerDecoder
    ) -> None:
        """Builds the embeddings around the given encoder and decoder."""
        super().__init__()
        self.grid = grid
        # four rows also where fewer levels are used, as in the official checkpoints
        self.level_embeds = nn.Parameter(torch.randn(OFFICIAL_LEVELS, channels))
        self.cams_embeds = nn.Parameter(torch.randn(cameras, channels))
        self.encoder = encoder
        self.decoder = decoder
        self.reference_points = nn.Linear(channels, 3)
        self.can_bus_mlp = nn.Sequential(
            nn.Linear(CAN_BUS_SIZE, channels // 2),
            nn.ReLU(inplace=True),
            nn.Linear(channels // 2, channels),
            nn.ReLU(inplace=True),
        )
        self.can_bus_mlp.add_module("norm", nn.LayerNorm(channels))

    def encode(
        self,
        image_BNCHW_levels: list[Tensor],
        *,
        bev_embedding_QC: Tensor,
        position_QC: Tensor,
        can_bus_B18: Tensor,
        lidar2img_BN44: Tensor,
        image_size_B2: Tensor,
        history: History | None,
    ) -> tuple[Tensor, Tensor]:
        """BEV features (B, Q, C) and the camera mask (B, N, Q, D); what is seen is found where the matrices lie."""
        grid, device, found_on = self.grid, bev_embedding_QC.device, lidar2img_BN44.device
        points = pillar_points(
            rows=grid.rows, columns=grid.columns, heights=grid.heights, pc_range=grid.pc_range, device=found_on
        )
        uv, mask = project(points, lidar2img_BN44=lidar2img_BN44, image_size_B2=image_size_B2)
        view = View(
            tokens_BNSC=self._tokens(image_BNCHW_levels),
            level_shapes=[(level.shape[-2], level.shape[-1]) for level in image_BNCHW_levels],
            seen=visibility(uv, mask_BNQD=mask).to(device),
            position_QC=position_QC,
            cells_Q2=cell_centres(rows=grid.rows, columns=grid.columns, device=device),
            rows=grid.rows,
        )
        query_BQC = bev_embedding_QC + self.can_bus_mlp(can_bus_B18)[:, None]
        return self.encoder(query_BQC, past=self._past(history, can_bus_B18), view=view), mask

    def decode(
        self, bev_BQC: Tensor, *, query_embedding_K2C: Tensor, reg_branches: nn.ModuleList
    ) -> tuple[Tensor, Tensor]:
        """Query states (L, B, K, C) and box codes (L, B, K, 10) with the centre in fractions of the range."""
        position_KC, content_KC = query_embedding_K2C.chunk(2, dim=-1)
        batch = len(bev_BQC)
        reference = self.reference_points(position_KC).float().sigmoid()
        return self.decoder(
            content_KC.expand(batch, -1, -1),
            position_BKC=position_KC.expand(batch, -1, -1),
            bev_BQC=bev_BQC,
            reference_BK3=reference.expand(batch, -1, -1),
            reg_branches=reg_branches,
            rows=self.grid.rows,
        )

    def _tokens(self, image_BNCHW_levels: list[Tensor]) -> Tensor:
        if len(image_BNCHW_levels) > len(self.level_embeds):
            raise ValueError(
                f"got {len(image_BNCHW_levels)} image levels, at most {len(self.level_embeds)} have embeddings"
            )
        tokens = []
        for level, image_BNCHW in enumerate(image_BNCHW_levels):
            embedding_NC = self.cams_embeds + self.level_embeds[level]
            tokens.append(image_BNCHW.flatten(3).transpose(2, 3) + embedding_NC[:, None].to(image_BNCHW.dtype))
        return torch.cat(tokens, 2)

    def _past(self, history: History | None, can_bus_B18: Tensor) -> Past | None:
        if history is None or not history.matters:
            return None
        grid = self.grid
        bev_BCHW = history.bev_BQC.transpose(1, 2).unflatten(-1, (grid.rows, grid.columns))
        turned = rotate(
            bev_BCHW, degrees_B=can_bus_B18[:, 17], centre_px=grid.rotation_centre_px, nearest=grid.rotation_nearest
        )
        # zero for samples without history, whose ego motion is zero
        moved = shift(can_bus_B18, cell_m=grid.cell_m, rows=grid.rows, columns=grid.columns)
        return Past(turned.flatten(2).transpose(1, 2), history.present, moved)
