"""Measures what our own modules add to a detector: their share of a forward pass, and the memory of looking at images.

    python scripts/bench_detector.py [--model tiny] [--threads 1]

First the latency of every part of one frame; backbone and neck are mmdet's, encoder and decoder ours. Then spatial
cross-attention alone, on the cells that the cameras of nuScenes see, on half of these, and as if every camera saw every
cell. Its activations should grow with the pairs of a cell and a camera that sees it; what is left of them without any
pair (values, offsets and weights of every cell) is taken off in the last column.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor

import profiles
from pipelines.assembly.scene import scene_of
from pipelines.costs.latency import measured
from profiles import Profile
from qdbev.detectors.bevformer import BEVFormer, build_bevformer
from qdbev.detectors.bevformer.counting import one_frame
from qdbev.detectors.bevformer.frames.geometry import Visibility, pillar_points, visibility
from qdbev.detectors.images.projection import project
from qdbev.quantization import activation_memory
from qdbev.reporting.tables.table import render


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description="what encoder and decoder add to a detector, in time and memory")
    parser.add_argument("--model", default="tiny", help="nano, tiny, small or base")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    profile = profiles.load("float", model=chosen.model, overrides=["device=cpu"])
    table = measured(profile, progress=True)
    print(render(table, form="text"))
    ours = sum(row["share"] for row in table.rows if row["part"] in ("encoder", "decoder"))
    print(f"\noutside backbone and neck: {ours:.1%}\n")
    print(
        tabulate(memory_rows(profile), headers=["cells seen", "pairs", "peak MB", "MB less none seen"], floatfmt=".2f")
    )


@torch.no_grad()
def memory_rows(profile: Profile) -> list[list[object]]:
    """Pairs, largest activations and what the pairs add to them, for some sets of seen cells."""
    torch.manual_seed(0)
    numbers: Any = profile.model
    detector = build_bevformer(**numbers.arguments()).eval()
    images, frames, _ = one_frame(detector, scene_of(profile), device="cpu")
    grid = detector.pts_bbox_head.transformer.grid
    points = pillar_points(
        rows=grid.rows, columns=grid.columns, heights=grid.heights, pc_range=grid.pc_range, device=images.device
    )
    projected, mask = project(points, lidar2img_BN44=frames.lidar2img_BN44, image_size_B2=frames.image_size_B2)
    half = mask.clone()
    half[:, :, ::2] = False
    masks = {"none": mask & False, "half": half, "by nuScenes' cameras": mask, "all by all": mask | True}
    levels = detector.extract_feat(images.normal_())
    taken = {name: _peak(detector, levels, visibility(projected, mask_BNQD=one)) for name, one in masks.items()}
    none = taken["none"][1]
    return [[name, pairs, peak / 2**20, (peak - none) / 2**20] for name, (pairs, peak) in taken.items()]


def _peak(detector: BEVFormer, levels: list[Tensor], seen: Visibility) -> tuple[int, int]:
    """Pairs, and bytes of the largest activations of the first layer's spatial cross-attention."""
    attention = detector.get_submodule("pts_bbox_head.transformer.encoder.layers.0.attentions.1")
    tokens = torch.cat([level.flatten(3).transpose(2, 3) for level in levels], 2)
    query = torch.randn_like(detector.pts_bbox_head.bev_embedding.weight)[None]
    shapes = [(level.shape[-2], level.shape[-1]) for level in levels]

    def forward() -> Tensor:
        result: Tensor = attention(query, tokens_BNSC=tokens, level_shapes=shapes, seen=seen)
        return result

    return len(seen.rows.image_R), activation_memory(attention, forward).peak_bytes


if __name__ == "__main__":
    main()
