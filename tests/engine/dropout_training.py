"""A short training with dropout and an unused layer, for several processes: what it comes to lies in a file."""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from qdbev.engine import OptimiserSettings, ScheduleSettings, numbered, train


def trained(folder: Path, name: str, *, sleep_s: float = 0.0, accumulation: int = 1) -> None:
    """Train ten steps, or go on with them, and write weights, averages and curve.

    Args:
        folder: Where the state lies under ``name``, and the result of process r under ``name-r.json``.
        name: Of this training.
        sleep_s: How long each step waits, to be killed in.
        accumulation: Batches of a step.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 1))
    model.add_module("unused", nn.Linear(2, 2))

    def loss(inputs: Tensor, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        time.sleep(sleep_s)
        value = (model[:3](inputs) - inputs.sum(1, keepdim=True)).square().mean()
        return value, {"twice": 2 * value}

    result = train(
        model,
        loss=loss,
        batches=numbered(lambda number: torch.randn(8, 4, generator=torch.Generator().manual_seed(number))),
        optimiser=OptimiserSettings(learning_rate=0.05, clip_norm=0.5),
        schedule=ScheduleSettings(steps=10),
        scratch=folder / name,
        device="cpu",
        ema_decay=0.9,
        save_every=1,
        log_every=3,
        accumulation=accumulation,
        seed=1,
    )
    several = torch.distributed.is_initialized()
    rank = torch.distributed.get_rank() if several else 0
    states = [{key: value.tolist() for key, value in state.items()} for state in (model.state_dict(), result.ema_state)]
    (folder / f"{name}-{rank}.json").write_text(json.dumps([*states, result.curve]))
    if several:
        torch.distributed.destroy_process_group()
