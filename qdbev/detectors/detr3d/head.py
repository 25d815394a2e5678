"""DETR3D's head: object queries, the decoder that looks at the images, and each layer's class and box branches.

Shapes: B samples, N cameras, K object queries, C channels, H W of a level, L decoder layers.
"""

from __future__ import annotations

import torch
from mmdet3d.registry import MODELS
from torch import Tensor, nn

from qdbev.detectors.detr3d.decoder import DecoderLayer, Detr3DDecoder, Detr3DTransformer
from qdbev.detectors.detr3d.image_attention import ImageCrossAttention, View
from qdbev.detectors.images.frame_batch import FrameBatch
from qdbev.detectors.queries.branches import box_branch, class_branch, code_weights_parameter, start_classes
from qdbev.detectors.queries.decoded import Decoded, metric
from qdbev.detectors.queries.references import refuse_unknown_init, spread_queries


@MODELS.register_module()
class DETR3DHead(nn.Module):
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
        pc_range: tuple[float, ...],
        decoder_layers: int,
        queries: int,
        query_init: str,
        dropout: float,
        code_weights: tuple[float, ...],
    ) -> None:
        """Builds and initialises; the arguments are explained in ``build_detr3d``."""
        super().__init__()
        refuse_unknown_init(query_init)
        self.levels, self.pc_range = levels, tuple(pc_range)
        layers = [
            DecoderLayer(channels=channels, heads=heads, hidden=hidden, cameras=cameras, levels=levels, dropout=dropout)
            for _ in range(decoder_layers)
        ]
        self.code_weights = code_weights_parameter(code_weights)
        self.transformer = Detr3DTransformer(channels=channels, decoder=Detr3DDecoder(layers))
        self.cls_branches = nn.ModuleList(class_branch(channels, classes=classes) for _ in range(decoder_layers))
        self.reg_branches = nn.ModuleList(box_branch(channels) for _ in range(decoder_layers))
        self.query_embedding = nn.Embedding(queries, 2 * channels)
        self._start(query_init)

    def encode(self, levels: list[Tensor], *, frames: FrameBatch) -> list[Tensor]:
        """The levels as they are: DETR3D has no encoder."""
        return levels[: self.levels]

    def decode(self, encoded: list[Tensor], *, frames: FrameBatch) -> Decoded:
        """Logits, metric box codes and query features of the neck's levels."""
        states_LBKC, code_LBK10 = self._refined(encoded, frames=frames)
        logits = [branch(states) for branch, states in zip(self.cls_branches, states_LBKC, strict=True)]
        return Decoded(torch.stack(logits).float(), metric(code_LBK10, pc_range=self.pc_range), states_LBKC[-1])

    def decode_last(self, encoded: list[Tensor], *, frames: FrameBatch) -> Decoded:
        """The same of the last layer alone, which is all that prediction looks at."""
        states_LBKC, code_LBK10 = self._refined(encoded, frames=frames)
        logits_1BKC = self.cls_branches[-1](states_LBKC[-1:])
        return Decoded(logits_1BKC.float(), metric(code_LBK10[-1:], pc_range=self.pc_range), states_LBKC[-1])

    def _refined(self, encoded: list[Tensor], *, frames: FrameBatch) -> tuple[Tensor, Tensor]:
        objects = torch.arange(self.query_embedding.num_embeddings, device=self.query_embedding.weight.device)
        position_KC, content_KC = self.query_embedding(objects).chunk(2, dim=-1)
        batch = len(encoded[0])
        refined: tuple[Tensor, Tensor] = self.transformer.decoder(
            content_KC.expand(batch, -1, -1),
            position_BKC=position_KC.expand(batch, -1, -1),
            reference_BK3=self.transformer.first_references(position_KC).expand(batch, -1, -1),
            view=View(encoded, frames, self.pc_range),
            reg_branches=self.reg_branches,
        )
        return refined

    def _start(self, query_init: str) -> None:
        """First values as in the official code: Xavier for the transformer, equal looks, a low prior of classes."""
        for parameter in self.transformer.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        nn.init.zeros_(self.transformer.reference_points.bias)
        for module in self.transformer.modules():
            if isinstance(module, ImageCrossAttention):
                nn.init.zeros_(module.attention_weights.weight)
                nn.init.zeros_(module.attention_weights.bias)
                nn.init.zeros_(module.output_proj.bias)
        start_classes(self.cls_branches)
        if query_init == "grid":
            spread_queries(self.query_embedding, reference_points=self.transformer.reference_points)
