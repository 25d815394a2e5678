"""PETR's head: positions of image cells and queries, the decoder, and class and box branches that all layers share.

Shapes: B samples, N cameras, E channels, H W of the level, D depths, K object queries, L decoder layers.
"""

from __future__ import annotations

import torch
from mmdet3d.registry import MODELS
from torch import Tensor, nn

from qdbev.detectors.images.frame_batch import FrameBatch
from qdbev.detectors.images.projection import without_autocast
from qdbev.detectors.petr.decoder import DecoderLayer, Memory, PETRDecoder, PETRTransformer
from qdbev.detectors.petr.position import depths_m, frustum_logits, padded_cells, query_sines, rig_sines
from qdbev.detectors.queries.branches import box_branch, class_branch, code_weights_parameter, start_classes
from qdbev.detectors.queries.decoded import Decoded, metric
from qdbev.detectors.queries.references import grid_positions, moved, refuse_unknown_init


@MODELS.register_module()
class PETRHead(nn.Module):
    """Everything after the neck; names as in the official checkpoints (``pts_bbox_head``).

    The branches are one module each, listed once for every layer, as in the official code.
    """

    levels = 1

    def __init__(
        self,
        *,
        classes: int,
        channels: int,
        heads: int,
        hidden: int,
        pc_range: tuple[float, ...],
        position_range: tuple[float, ...],
        depths: int,
        depth_start_m: float,
        decoder_layers: int,
        queries: int,
        query_init: str,
        dropout: float,
        code_weights: tuple[float, ...],
    ) -> None:
        """Builds and initialises; the arguments are explained in ``build_petr``."""
        super().__init__()
        refuse_unknown_init(query_init)
        self.pc_range, self.position_range = tuple(pc_range), tuple(position_range)
        self.depths, self.depth_start_m = depths, depth_start_m
        self.sine_features = channels // 2
        layers = [
            DecoderLayer(channels=channels, heads=heads, hidden=hidden, dropout=dropout) for _ in range(decoder_layers)
        ]
        of_class, of_box = class_branch(channels, classes=classes), box_branch(channels)
        self.code_weights = code_weights_parameter(code_weights)
        self.input_proj = nn.Conv2d(channels, channels, 1)
        self.cls_branches = nn.ModuleList([of_class] * decoder_layers)
        self.reg_branches = nn.ModuleList([of_box] * decoder_layers)
        self.adapt_pos3d = _small_network(3 * self.sine_features, channels=channels)
        self.position_encoder = _small_network(3 * depths, channels=channels)
        self.reference_points = nn.Embedding(queries, 3)
        self.query_embedding = nn.Sequential(
            nn.Linear(3 * self.sine_features, channels), nn.ReLU(), nn.Linear(channels, channels)
        )
        self.transformer = PETRTransformer(PETRDecoder(layers, channels=channels))
        self._start(query_init)

    def encode(self, levels: list[Tensor], *, frames: FrameBatch) -> Memory:
        """Cells of the finest level with their positions, and the positions of the queries."""
        level = levels[0]
        shape, cameras = (level.shape[-2], level.shape[-1]), level.shape[1]
        with without_autocast(level.device):
            padded_BHW = padded_cells(shape, frames=frames)
            cells = self.input_proj(level.flatten(0, 1).float()).unflatten(0, (-1, cameras))
            position = self.cell_positions(shape, cameras=cameras, padded_BHW=padded_BHW, frames=frames)
            query_position = self.query_embedding(query_sines(self.anchors(), features=self.sine_features))
        padded = None if padded_BHW is None else padded_BHW[:, None].expand(-1, cameras, -1, -1).flatten(1)
        return Memory(_cell_by_cell(cells), _cell_by_cell(position), query_position, padded)

    def cell_positions(
        self, shape: tuple[int, int], *, cameras: int, padded_BHW: Tensor | None, frames: FrameBatch
    ) -> Tensor:
        """(B, N, E, H, W): of the rays through each cell, and of its camera, row and column."""
        device = frames.lidar2img_BN44.device
        depths = depths_m(self.depths, start_m=self.depth_start_m, end_m=self.position_range[3], device=device)
        rays = frustum_logits(shape, frames=frames, depths=depths, position_range=self.position_range)
        turns = rig_sines(shape, cameras=cameras, padded_BHW=padded_BHW, frames=frames, features=self.sine_features)
        position: Tensor = self.position_encoder(rays.flatten(0, 1)) + self.adapt_pos3d(turns.flatten(0, 1))
        return position.unflatten(0, (-1, cameras))

    def anchors(self) -> Tensor:
        """(K, 3) learned places of the queries in fractions of the range; some may leave 0 to 1."""
        return self.reference_points(
            torch.arange(self.reference_points.num_embeddings, device=self.reference_points.weight.device)
        )

    def decode(self, encoded: Memory, *, frames: FrameBatch) -> Decoded:
        """Logits, metric box codes and query features; every layer's boxes start from the same anchors."""
        return self._read(self.transformer.decoder(encoded))

    def decode_last(self, encoded: Memory, *, frames: FrameBatch) -> Decoded:
        """The same of the last layer alone, which is all that prediction looks at."""
        return self._read(self.transformer.decoder(encoded)[-1:])

    def _read(self, states_LBKE: Tensor) -> Decoded:
        logits = self.cls_branches[0](states_LBKE).float()
        code = moved(self.reg_branches[0](states_LBKE).float(), reference_BK3=self.anchors())
        return Decoded(logits, metric(code, pc_range=self.pc_range), states_LBKE[-1])

    def _start(self, query_init: str) -> None:
        """First values as in the official code: Xavier for the transformer, a low prior of classes."""
        for module in self.transformer.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.uniform_(self.reference_points.weight)
        start_classes([self.cls_branches[0]])
        if query_init == "grid":
            with torch.no_grad():
                self.reference_points.weight.copy_(grid_positions(self.reference_points.num_embeddings))


def _small_network(inputs: int, *, channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, 4 * channels, 1), nn.ReLU(), nn.Conv2d(4 * channels, channels, 1))


def _cell_by_cell(maps_BNEHW: Tensor) -> Tensor:
    return maps_BNEHW.permute(0, 1, 3, 4, 2).flatten(1, 3)
