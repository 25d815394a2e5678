"""The tables of a chain: what its manifests say of cost that no number holds."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

import profiles
from pipelines.lineage.chain import Link
from pipelines.lineage.kinds import EVALUATION, FLOAT, WEIGHTS
from pipelines.reporting.chain_tables import cost_tables
from pipelines.store.artifacts import Store


def test_modules_whose_work_could_not_be_seen_stand_under_bit_operations(tmp_path: Path) -> None:
    store, profile = Store(tmp_path), profiles.load("float")
    weights = {"w": torch.ones(3)}
    model = store.seal(FLOAT, profile=profile, key="a" * 64, write=lambda at: save_file(weights, at / WEIGHTS))
    cost = {"size_nominal_mb": 1.0, "gbops": {"neck": 2.0, "total": 2.0}}
    paths = [f"neck.{number}" for number in range(7)]
    notes = []
    for key, metrics in (("b", cost), ("c", cost | {"not_counted": paths})):
        scored = store.seal(EVALUATION, profile=profile, key=key * 64, write=lambda at: None, metrics=metrics)
        _, operations = cost_tables([Link("float", "W32A32", model, scored)])
        notes.append(" ".join(operations.notes))
    assert "Not counted" not in notes[0]
    assert "Not counted, as their work cannot be seen: neck.0, neck.1, neck.2, neck.3, neck.4 and 2 more." in notes[1]
