"""Engine: one training loop on Hugging Face accelerate for every stage, with exact resume."""

from __future__ import annotations

from qdbev.engine.average import AverageWeights, weights_of
from qdbev.engine.batches import Batches, ShuffledBatches, numbered
from qdbev.engine.loss import Loss, sum_losses
from qdbev.engine.moment import ExtraState, Moment, TrainResult
from qdbev.engine.optimiser import OptimiserSettings
from qdbev.engine.randomness import seed_everything
from qdbev.engine.schedule import ScheduleSettings, learning_rate_factor
from qdbev.engine.state import DamagedState, ResumeState, load_state, save_state
from qdbev.engine.training import train

__all__ = [
    "AverageWeights",
    "Batches",
    "DamagedState",
    "ExtraState",
    "Loss",
    "Moment",
    "OptimiserSettings",
    "ResumeState",
    "ScheduleSettings",
    "ShuffledBatches",
    "TrainResult",
    "learning_rate_factor",
    "load_state",
    "numbered",
    "save_state",
    "seed_everything",
    "sum_losses",
    "train",
    "weights_of",
]
