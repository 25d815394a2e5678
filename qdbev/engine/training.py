"""The one training loop, for float training, QAT and distillation alike, with exact resume.

Before each batch all random generators are seeded from the seed and the batch's number, the learning rate is a
function of the step, and batches are functions of their number. So weights, moments, averages and the step are the
whole state, and a run that was stopped at any moment ends like one that was not, bit for bit (on CUDA: as far as
its kernels are deterministic).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from qdbev.engine.accelerating import Precision, Tracker, open_accelerator
from qdbev.engine.batches import Batches
from qdbev.engine.loss import Loss, frozen_batchnorm
from qdbev.engine.moment import ExtraState, OnSave, OnStep, TrainResult
from qdbev.engine.optimiser import OptimiserSettings
from qdbev.engine.randomness import seed_everything
from qdbev.engine.running import Training
from qdbev.engine.schedule import ScheduleSettings
from qdbev.engine.stepping import Stepper


def train(
    model: nn.Module,
    *,
    loss: Loss,
    batches: Batches,
    optimiser: OptimiserSettings,
    schedule: ScheduleSettings,
    scratch: Path,
    key: str = "",
    precision: Precision = "no",
    accumulation: int = 1,
    ema_decay: float | None = None,
    freeze_batchnorm: bool = False,
    seed: int = 0,
    device: str = "auto",
    save_every: int = 200,
    log_every: int = 20,
    on_step: OnStep | None = None,
    on_save: OnSave | None = None,
    extra_state: ExtraState | None = None,
    nonfinite_limit: int = 3,
    find_unused_parameters: bool = True,
    trackers: Sequence[Tracker] = (),
    records: Path | None = None,
    progress: bool = False,
    label: str = "train",
) -> TrainResult:
    """Train a model in place, going on from ``scratch`` where an earlier call with the same key stopped.

    At the end the state stays in ``scratch``, so a call after the end returns at once; the caller removes the folder
    when the result is safe. SIGINT and SIGTERM take effect after the step in progress, once the state is saved.

    Args:
        model: Model; its parameters that require a gradient are trained. It is moved to the device, and put in
            training mode for the duration.
        loss: ``loss(batch, step)`` gives the loss, one number, and its terms for the curve. It calls ``model``.
        batches: Batches by number; with W processes and accumulation A, step t takes W*A batches from t*W*A on.
        optimiser: Optimiser settings.
        schedule: Steps and learning-rate schedule.
        scratch: Folder for resume state; all processes must see it.
        key: Names all settings of this run; a state left by another key is not resumed but replaced.
        precision: "no" (float32), "bf16" or "fp16" autocast.
        accumulation: Batches per optimiser step and process.
        ema_decay: Decay of the moving average of the weights; None keeps none.
        freeze_batchnorm: Hold batch norm in evaluation mode.
        seed: Seed of dropout and every other random choice in the model; 0 or more.
        device: "auto", "cpu", "cuda" or "cuda:<number>".
        save_every: Steps between saved states; the last step is always saved.
        log_every: Steps between rows of the curve.
        on_step: Called after each step, in every process; metrics it returns make a row of the curve.
        on_save: Called after each saved state, in every process.
        extra_state: Resumed together with the model.
        nonfinite_limit: So many steps in a row with a loss or gradient that is not finite are an error; fewer are
            skipped and counted, leaving weights and buffers as they were.
        find_unused_parameters: DDP looks for parameters the loss does not reach.
        trackers: Also write the curve, as it grows, with these.
        records: Folder of TensorBoard's files, whose name is the run's name; None: ``scratch/tensorboard``.
        progress: Show a progress bar with loss and learning rate.
        label: Text of the progress bar.

    Returns:
        Curve, averaged weights and counts; the model itself holds the trained weights.

    Raises:
        DamagedState: A resume state that cannot be gone on from.
        ValueError: Settings out of range, batches that end, or losses that stay non-finite.
    """
    _check_counts(
        save_every=save_every, log_every=log_every, accumulation=accumulation, nonfinite_limit=nonfinite_limit
    )
    accelerator = open_accelerator(
        device=device,
        precision=precision,
        accumulation=accumulation,
        find_unused_parameters=find_unused_parameters,
    )
    stepper = Stepper(model, loss=loss, accelerator=accelerator, settings=optimiser, ema_decay=ema_decay, seed=seed)
    training = Training(
        stepper=stepper,
        accelerator=accelerator,
        schedule=schedule,
        learning_rate=optimiser.learning_rate,
        scratch=scratch,
        key=key,
        save_every=save_every,
        log_every=log_every,
        nonfinite_limit=nonfinite_limit,
        on_step=on_step,
        on_save=on_save,
        extra_state=extra_state,
    )
    resumed_from = training.resume()
    was_training = model.training
    try:
        with (
            frozen_batchnorm(model, freeze=freeze_batchnorm),
            training.tracked(trackers, records=records or scratch / "tensorboard", progress=progress, label=label),
        ):
            training.go(batches)
    finally:
        model.train(was_training)
        if accelerator.num_processes > 1 or accelerator.device.type != "cpu":
            accelerator.free_memory()  # DDP's hooks on the parameters and the moments on the device go now
    seed_everything(seed, schedule.steps)  # what follows finds the same generators after any history
    return training.result(resumed_from)


def _check_counts(*, save_every: int, log_every: int, accumulation: int, nonfinite_limit: int) -> None:
    if min(save_every, log_every, accumulation, nonfinite_limit) < 1:
        raise ValueError(
            f"save_every={save_every}, log_every={log_every}, accumulation={accumulation}, "
            f"nonfinite_limit={nonfinite_limit}: expected numbers of at least 1"
        )
