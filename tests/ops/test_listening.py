"""Listeners are told of each call of deformable attention while they listen, and no longer."""

from __future__ import annotations

import torch
from torch import Tensor

from qdbev.ops import Rows, deformable_attention, listening


def test_a_listener_is_told_of_each_call_while_it_listens() -> None:
    references, offsets = torch.full((1, 1, 1, 2), 0.25), torch.full((1, 1, 1, 3, 2), 7.0)
    told: list[tuple[Tensor, Tensor, list[tuple[int, int]]]] = []

    def look() -> Tensor:
        return deformable_attention(
            torch.ones(1, 6, 1, 4),
            level_shapes=[(2, 3)],
            rows=Rows.own_image(images=1, queries=1, device=references.device),
            references_RLP2=references,
            offsets_JMLP2=offsets,
            weights_JMLP=torch.ones(1, 1, 1, 3),
        )

    alone = look()
    with listening(lambda *given: told.append(given)):
        assert torch.equal(look(), alone)
    look()
    assert told == [(references, offsets, [(2, 3)])]
