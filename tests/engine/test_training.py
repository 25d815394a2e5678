"""The training loop: against a loop written out, and resumed == uninterrupted bit for bit however it was stopped."""

from __future__ import annotations

import importlib.machinery
import json
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from qdbev.engine import DamagedState, OptimiserSettings, ScheduleSettings, numbered, seed_everything, train
from qdbev.engine.accelerating import refuse_absent
from qdbev.engine.randomness import seed_for
from qdbev.engine.schedule import learning_rate_factor
from tests.apart import exit_code, start_call, two
from tests.engine.dropout_training import trained

ROOT = Path(__file__).resolve().parents[2]
OPTIMISER = OptimiserSettings(learning_rate=0.05, part_multipliers={"0": 0.5}, clip_norm=1.0)


def _model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1))


def _batch(number):
    generator = torch.Generator().manual_seed(number)
    inputs = torch.randn(8, 4, generator=generator)
    return inputs, inputs.sum(1, keepdim=True)


def _squared(model):
    def loss(batch, step):
        inputs, targets = batch
        value = (model(inputs) - targets).square().mean()
        return value, {"loss_square": value, "step_seen": float(step)}

    return loss


def _train(scratch, *, model=None, loss=None, steps=12, optimiser=OPTIMISER, batches=None, **settings):
    model = model if model is not None else _model()
    defaults = {"ema_decay": 0.9, "save_every": 4, "log_every": 5, "device": "cpu", "seed": 3, "key": "run"}
    result = train(
        model,
        loss=loss if loss is not None else _squared(model),
        batches=batches if batches is not None else numbered(_batch),
        optimiser=optimiser,
        schedule=ScheduleSettings(steps=steps, warmup_steps=3),
        scratch=scratch,
        **{**defaults, **settings},
    )
    return model, result


def _assert_same(one, other):
    """Weights, buffers, averages and curve are equal, bit for bit."""
    for states in [(one[0].state_dict(), other[0].state_dict()), (one[1].ema_state, other[1].ema_state)]:
        assert states[0].keys() == states[1].keys()
        for name, value in states[0].items():
            assert torch.equal(value, states[1][name]), name
    assert one[1].curve == other[1].curve
    assert one[1].skipped == other[1].skipped


# --- what one run computes


def test_agrees_with_a_loop_written_out(tmp_path):
    model, result = _train(tmp_path, steps=7, ema_decay=None)
    expected = _model().train()
    groups = [{"params": expected[part].parameters(), "part": factor} for part, factor in [(0, 0.5), (1, 1), (4, 1)]]
    adam = torch.optim.AdamW(groups, weight_decay=0.01, foreach=False)
    losses = []
    for step in range(7):
        for group in adam.param_groups:
            factor = learning_rate_factor(step, settings=ScheduleSettings(steps=7, warmup_steps=3))
            group["lr"] = 0.05 * group["part"] * factor
        torch.manual_seed(seed_for(3, step))
        inputs, targets = _batch(step)
        loss = (expected(inputs) - targets).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(expected.parameters(), 1.0)
        adam.step()
        adam.zero_grad()
        losses.append(loss.item())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[name], msg=name)
    assert [row["step"] for row in result.curve] == [5, 7]
    assert result.curve[0]["loss"] == pytest.approx(sum(losses[:5]) / 5)
    assert result.curve[1]["loss_square"] == pytest.approx(sum(losses[5:]) / 2)
    assert result.curve[1]["step_seen"] == 5.5
    assert result.ema_state is None and result.skipped == [] and result.resumed_from == 0


@pytest.mark.parametrize(("clip_norm", "said"), [(1e-9, 1), (1.0, 0), (None, 0)])
def test_says_once_that_gradients_are_clipped_to_next_to_nothing(tmp_path, caplog, clip_norm, said):
    _train(tmp_path, optimiser=OptimiserSettings(learning_rate=0.05, clip_norm=clip_norm), log_every=2)
    warnings = [record.getMessage() for record in caplog.records if "clipped from a norm of" in record.getMessage()]
    assert len(warnings) == said
    assert all(line.startswith("step 2: ") and "to 1e-09" in line for line in warnings)


def test_accumulated_batches_count_like_one_large_batch(tmp_path):
    def plain():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def pair(number):
        return tuple(torch.cat(parts) for parts in zip(_batch(2 * number), _batch(2 * number + 1), strict=True))

    one, first = _train(tmp_path / "a", model=plain(), accumulation=2)
    other, second = _train(tmp_path / "b", model=plain(), batches=numbered(pair))
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name])
    assert first.curve[0]["loss"] == pytest.approx(second.curve[0]["loss"], rel=1e-5)


def test_averages_follow_the_weights(tmp_path):
    seen = []

    def remember(moment):
        seen.append(moment.model[4].weight.detach().clone())

    model, result = _train(tmp_path, steps=6, on_step=remember)
    average = _model()[4].weight.detach()
    for update, weight in enumerate(seen):
        decay = min(0.9, (1 + update) / (10 + update))
        average = decay * average + (1 - decay) * weight
    torch.testing.assert_close(result.ema_state["4.weight"], average)
    assert torch.equal(result.ema_state["1.running_mean"], model.state_dict()["1.running_mean"])


def test_batchnorm_and_frozen_parameters_stay_while_frozen(tmp_path):
    model = _model()
    model[4].requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    _train(tmp_path, model=model, freeze_batchnorm=True)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"0.weight", "1.weight", "1.bias"}


def test_bf16_computes_in_bf16_and_keeps_float32_weights(tmp_path):
    dtypes = set()
    model = _model()
    model[4].register_forward_hook(lambda module, inputs, output: dtypes.add(output.dtype))
    half, _ = _train(tmp_path / "a", model=model, precision="bf16")
    full, _ = _train(tmp_path / "b")
    assert dtypes == {torch.bfloat16}
    assert {value.dtype for name, value in half.named_parameters()} == {torch.float32}
    assert "forward" not in vars(half)  # accelerate patched its own wrapper, not the model
    assert not torch.equal(half[4].weight, full[4].weight)
    torch.testing.assert_close(half[4].weight, full[4].weight, atol=0.1, rtol=0.1)


def test_model_comes_back_in_its_own_mode_and_generators_in_a_known_state(tmp_path):
    model = _model().eval()
    _train(tmp_path, model=model)
    one = torch.rand(3)
    assert not model.training
    _train(tmp_path, model=model)  # finished: nothing left to do
    assert torch.equal(torch.rand(3), one)


# --- hooks and traces


def test_metrics_of_a_hook_make_a_row_and_an_evaluating_hook_disturbs_nothing(tmp_path):
    def evaluate(moment):
        moment.model.eval()
        torch.rand(moment.step)
        return {"nds": moment.step / 10} if moment.step == 3 else None

    watched = _train(tmp_path / "a", on_step=evaluate)
    assert [row["step"] for row in watched[1].curve] == [3, 5, 10, 12]
    assert [row.get("nds") for row in watched[1].curve] == [0.3, None, None, None]
    alone = _train(tmp_path / "b")
    assert torch.equal(watched[0][0].weight, alone[0][0].weight)


def test_on_save_sees_each_saved_state(tmp_path):
    moments = []
    _train(tmp_path, steps=10, on_save=lambda moment: moments.append((moment.step, len(list(tmp_path.iterdir())))))
    assert moments == [(4, 1), (8, 1), (10, 1)]


def test_tensorboard_holds_the_curve_once_also_after_a_resume(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = tmp_path / "events" / "qat-w4a6-nano"
    settings = {"log_every": 1, "trackers": ("tensorboard",), "records": events}
    (events / "of a training before").mkdir(parents=True)
    with pytest.raises(RuntimeError, match="power cut"):
        _train(tmp_path / "state", **settings, on_step=_power_cut(6))
    _, result = _train(tmp_path / "state", **settings)
    read = EventAccumulator(str(events))
    read.Reload()
    scalars = read.Scalars("loss")
    assert [scalar.step for scalar in scalars] == list(range(1, 13))
    assert [scalar.value for scalar in scalars] == pytest.approx([row["loss"] for row in result.curve])
    assert len(list(events.iterdir())) == 2  # of the run that was cut and of the one that went on
    _train(tmp_path / "state", **settings)  # nothing is left to write
    assert len(list(events.iterdir())) == 2


class _Recorder:
    """A tracker's package as accelerate calls it: what a run is called, and what it is given."""

    def __init__(self):
        self.named, self.rows, self.ended = None, [], 0

    def init(self, *, project, name):
        self.named = (project, name)
        return self

    def search_experiments(self, *, filter_string):
        return []

    def create_experiment(self, *, name, **_):
        return name

    def start_run(self, *, experiment_id, run_name, **_):
        self.named = (experiment_id, run_name)

    def log(self, values, *, step):
        self.rows.append((step, values["loss"]))

    log_metrics = log

    def finish(self):
        self.ended += 1

    end_run = finish


def test_other_trackers_get_the_curve_and_the_name_of_the_run(tmp_path, monkeypatch):
    packages = {name: _Recorder() for name in ("wandb", "mlflow")}
    for name, package in packages.items():
        package.__spec__ = importlib.machinery.ModuleSpec(name, None, origin="here")
        monkeypatch.setitem(sys.modules, name, package)
    _, result = _train(tmp_path, trackers=("wandb", "mlflow"), records=tmp_path / "vgd-w4a6-nano")
    for package in packages.values():
        assert package.named == ("qdbev", "vgd-w4a6-nano") and package.ended == 1
        assert package.rows == [(row["step"], row["loss"]) for row in result.curve]
    assert not (tmp_path / "vgd-w4a6-nano").exists()  # no tracker that writes files


def test_a_tracker_that_is_not_installed_is_refused(tmp_path, monkeypatch):
    (tmp_path / "wandb").mkdir()  # where Weights & Biases wrote; no package
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=r"^log_with names wandb, which is not installed: `pip install wandb`$"):
        refuse_absent(("tensorboard", "wandb"))


def test_progress_shows_loss_and_steps_only_when_asked(tmp_path, capfd):
    _train(tmp_path / "a")
    assert capfd.readouterr() == ("", "")
    _train(tmp_path / "b", progress=True, label="qat encoder")
    shown = capfd.readouterr()
    assert shown.out == "" and "qat encoder: 100%" in shown.err and "12/12" in shown.err and "loss=" in shown.err
    _train(tmp_path / "c", progress=True)
    assert "train: 100%" in capfd.readouterr().err


# --- resumed == uninterrupted


def _power_cut(after):
    def cut(moment):
        if moment.step == after:
            raise RuntimeError("power cut")

    return cut


class _Counter:
    """Something that changes beside the model and takes part in the loss."""

    def __init__(self):
        self.total = 1.0

    def state_tensors(self):
        return {"total": torch.tensor(self.total, dtype=torch.float64)}

    def load_state_tensors(self, tensors):
        self.total = float(tensors["total"])


def _counted(scratch, **settings):
    model, counter = _model(), _Counter()

    def loss(batch, step):
        value, terms = _squared(model)(batch, step)
        counter.total += value.item()
        return value * counter.total, {**terms, "total": counter.total}

    return *_train(scratch, model=model, loss=loss, extra_state=counter, **settings), counter.total


@pytest.mark.parametrize("save_every", [1, 5, 100])
@pytest.mark.parametrize("cut", [1, 4, 7, 11, 12])
def test_resumed_after_an_error_equals_uninterrupted(tmp_path, cut, save_every):
    whole = _counted(tmp_path / "whole", save_every=save_every)
    with pytest.raises(RuntimeError, match="power cut"):
        _counted(tmp_path / "cut", save_every=save_every, on_step=_power_cut(cut))
    resumed = _counted(tmp_path / "cut", save_every=save_every)
    _assert_same(whole, resumed)
    assert whole[2] == resumed[2]
    assert resumed[1].resumed_from == (cut - 1) // save_every * save_every


def test_resumed_with_accumulation_and_bf16_equals_uninterrupted(tmp_path):
    settings = {"accumulation": 3, "precision": "bf16", "steps": 6, "save_every": 2}
    whole = _train(tmp_path / "whole", **settings)
    with pytest.raises(RuntimeError, match="power cut"):
        _train(tmp_path / "cut", **settings, on_step=_power_cut(3))
    _assert_same(whole, _train(tmp_path / "cut", **settings))


def test_an_error_within_a_step_leaves_nothing_behind(tmp_path):
    """Gradients, batch norm and moments of the broken step do not leak into the next call."""
    model = _model()

    def broken(batch, step):
        value, terms = _squared(model)(batch, step)
        if step == 6:
            value.backward()
            raise RuntimeError("out of memory")
        return value, terms

    with pytest.raises(RuntimeError, match="out of memory"):
        _train(tmp_path / "cut", model=model, loss=broken)
    resumed = _train(tmp_path / "cut", model=model)  # the same model object, dirty
    _assert_same(_train(tmp_path / "whole"), resumed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_after_the_step_with_the_state_saved(tmp_path, number):
    def interrupt(moment):
        if moment.step == 6:
            signal.raise_signal(number)

    former = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with pytest.raises(KeyboardInterrupt):
            _train(tmp_path / "cut", save_every=100, on_step=interrupt)
    finally:
        signal.signal(signal.SIGTERM, former)
    resumed = _train(tmp_path / "cut", save_every=100)
    assert resumed[1].resumed_from == 6
    _assert_same(_train(tmp_path / "whole", save_every=100), resumed)


def test_interrupt_in_the_last_step_is_not_lost(tmp_path):
    def interrupt(moment):
        if moment.step == moment.steps:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        _train(tmp_path, on_step=interrupt)
    assert _train(tmp_path)[1].resumed_from == 12


def test_a_finished_run_returns_the_same_at_once(tmp_path):
    whole = _train(tmp_path)

    def unused(batch, step):
        raise AssertionError("no step is left")

    again = _train(tmp_path, loss=unused)
    _assert_same(whole, again)
    assert again[1].resumed_from == 12


def test_longer_schedule_of_another_key_starts_afresh(tmp_path):
    _train(tmp_path, key="short")
    longer = _train(tmp_path, key="long", steps=16)
    assert longer[1].resumed_from == 0
    _assert_same(_train(tmp_path / "alone", key="long", steps=16), longer)


def test_damaged_state_and_other_models_are_refused(tmp_path):
    _train(tmp_path)
    wide = nn.Sequential(nn.Linear(4, 9), nn.Linear(9, 1))  # differs in 0.bias, 0.weight, five of 1 and two of 4
    message = r"^resume state .*/state-00000012-\w+ does not fit this run \(it is of another model, 9 tensors differ, "
    message += r"first 0\.bias\): delete that folder to start again$"
    with pytest.raises(DamagedState, match=message):
        _train(tmp_path, model=wide)
    tensors = next(tmp_path.glob("state-*/tensors.safetensors"))
    tensors.write_bytes(tensors.read_bytes()[:-4])
    with pytest.raises(DamagedState, match="is damaged"):
        _train(tmp_path)


@pytest.mark.parametrize("change", [{"ema_decay": None}, {"extra_state": None}])
def test_a_state_of_other_settings_under_the_same_key_is_damaged(tmp_path, change):
    counter = _Counter()
    _train(tmp_path, **{"extra_state": counter, **change})
    if change == {"ema_decay": None}:
        with pytest.raises(DamagedState, match=r"state-00000012-\w+ does not fit this run \(averages of 0 parameters"):
            _train(tmp_path, extra_state=counter)
    else:
        with pytest.raises(DamagedState, match=r"state-00000012-\w+ does not fit this run \(.*total"):
            _train(tmp_path, extra_state=counter)


# --- losses that are not finite


def _sometimes_nan(model, bad_steps):
    def loss(batch, step):
        inputs, targets = batch
        value = (model(inputs * float("nan") if step in bad_steps else inputs) - targets).square().mean()
        return value, {"loss_square": value}

    return loss


def test_bad_steps_are_skipped_counted_and_leave_the_model_as_it_was(tmp_path):
    states = []
    model = _model()

    def remember(moment):
        states.append({name: value.clone() for name, value in moment.model.state_dict().items()})

    _, result = _train(tmp_path, model=model, loss=_sometimes_nan(model, {4, 5, 8}), on_step=remember)
    assert result.skipped == [4, 5, 8]
    for step in (4, 5, 8):
        assert all(torch.equal(value, states[step][name]) for name, value in states[step - 1].items())
    assert all(value.isfinite().all() for value in {**model.state_dict(), **result.ema_state}.values())
    assert [row["loss"] == row["loss"] for row in result.curve] == [True] * 3


def test_infinite_gradient_of_a_finite_loss_is_skipped_too(tmp_path):
    model = _model()

    def loss(batch, step):
        value, terms = _squared(model)(batch, step)
        edge = model[4].weight[0, 0] - model[4].weight[0, 0].detach()
        return value + (edge.abs().sqrt() if step == 2 else 0.0), terms  # the root's slope at 0 is infinite

    _, result = _train(tmp_path, model=model, loss=loss)
    assert result.skipped == [2]
    assert all(value.isfinite().all() for value in model.state_dict().values())


@pytest.mark.parametrize("resumed", [False, True])
def test_bad_steps_in_a_row_are_an_error_that_names_them(tmp_path, resumed):
    model = _model()
    loss = _sometimes_nan(model, {1, 6, 7, 8})
    if resumed:  # the count goes on where it was
        with pytest.raises(RuntimeError, match="power cut"):
            _train(tmp_path, model=model, loss=loss, save_every=7, on_step=_power_cut(8))
    with pytest.raises(ValueError, match=r"3 steps in a row .*step 6: .*loss_square nan.*step 7: .*step 8: "):
        _train(tmp_path, model=model, loss=loss, save_every=7)


# --- refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": "tpu"}, "device 'tpu'"),
        ({"device": "cuda:99"}, "torch sees"),
        ({"precision": "fp8"}, "precision 'fp8'"),
        ({"precision": "fp16"}, "needs a CUDA device"),
        ({"save_every": 0}, "save_every=0"),
        ({"accumulation": 0}, "accumulation=0"),
        ({"seed": -1}, "non-negative"),
        ({"batches": lambda start, *, stride: iter([_batch(start)])}, "the batches ended after batch 0"),
    ],
)
def test_refuses(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        _train(tmp_path, **change)


# --- other processes


def _result(folder, name, *, rank=0):
    return json.loads((folder / f"{name}-{rank}.json").read_text())


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    killed = start_call(trained, tmp_path, "cut", sleep_s=0.1)
    while not any((tmp_path / "cut").glob("state-0000000[3-9]*")):
        assert killed.is_alive()
        time.sleep(0.01)
    killed.kill()
    assert exit_code(killed) == -signal.SIGKILL and not (tmp_path / "cut-0.json").exists()
    for name in ("cut", "whole"):
        trained(tmp_path, name)
    assert _result(tmp_path, "cut") == _result(tmp_path, "whole")


@pytest.mark.slow
def test_two_processes_equal_one_that_accumulates(tmp_path):
    """Same global batch: process r of 2 takes batches r, r + 2, ...; one process takes two a step."""
    ranks = two(lambda **environment: start_call(trained, tmp_path, "two", environment=environment))
    trained(tmp_path, "one", accumulation=2)
    assert [exit_code(process) for process in ranks] == [0, 0]
    one, (first, second) = _result(tmp_path, "one"), (_result(tmp_path, "two", rank=rank) for rank in (0, 1))
    assert first == second
    for states in zip(first[:2], one[:2], strict=True):
        for name, value in states[0].items():
            torch.testing.assert_close(torch.tensor(value), torch.tensor(states[1][name]), rtol=1e-5, atol=1e-6)
    for row, expected in zip(first[2], one[2], strict=True):
        assert row == pytest.approx(expected, rel=1e-4)


def test_seeding_is_by_batch_number(tmp_path):
    """Dropout of accumulated batches is that of the batches' own numbers."""
    model = _model()
    draws = []

    def loss(batch, step):
        draws.append(torch.rand(()).item())
        return _squared(model)(batch, step)

    _train(tmp_path, model=model, loss=loss, steps=2, accumulation=2)
    expected = []
    for number in range(4):
        seed_everything(3, number)
        expected.append(torch.rand(()).item())
    assert draws == expected
