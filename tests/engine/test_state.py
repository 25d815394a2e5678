"""Resume state: round trip, every kind of damage, states of other runs, and writes that fail half-way."""

from __future__ import annotations

import os

import pytest
import torch

from qdbev.engine.state import DamagedState, load_state, save_state

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(7), "half": torch.ones(3, dtype=torch.bfloat16)}
RECORD = {"curve": [{"loss": 0.1 + 0.2}], "name": "x"}


def _save(scratch, *, step=120, key="k"):
    return save_state(scratch, key=key, step=step, tensors=TENSORS, record=RECORD)


def test_round_trip(tmp_path):
    folder = _save(tmp_path / "new" / "scratch")
    assert sorted(path.name for path in folder.iterdir()) == ["digests.json", "state.json", "tensors.safetensors"]
    state = load_state(tmp_path / "new" / "scratch", key="k")
    assert state.step == 120 and state.record == RECORD and set(state.tensors) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert state.tensors[name].dtype == tensor.dtype and torch.equal(state.tensors[name], tensor)


def test_tied_and_strided_tensors_are_saved_whole(tmp_path):
    tied = torch.arange(6.0).reshape(2, 3)
    save_state(tmp_path, key="k", step=1, tensors={"a": tied, "b": tied, "c": tied.T}, record={})
    state = load_state(tmp_path, key="k")
    assert torch.equal(state.tensors["b"], tied) and torch.equal(state.tensors["c"], tied.T)


def test_what_would_need_a_pickle_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"model:layer._extra_state: expected tensors only"):
        save_state(tmp_path, key="k", step=1, tensors={"model:layer._extra_state": {"a": 1}}, record={})
    assert list(tmp_path.iterdir()) == []


def test_only_the_newest_is_kept_and_found(tmp_path):
    for step in (2, 10, 9):
        folder = _save(tmp_path, step=step)
        assert list(tmp_path.iterdir()) == [folder]
    assert load_state(tmp_path, key="k").step == 9


def test_previous_state_stands_until_the_new_one_does(tmp_path, monkeypatch):
    _save(tmp_path, step=1)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            _save(tmp_path, step=2)
    assert load_state(tmp_path, key="k").step == 1
    assert len(list(tmp_path.iterdir())) == 1  # nothing half-written takes up the full disk
    newer = _save(tmp_path, step=2)
    assert list(tmp_path.iterdir()) == [newer]


def test_leftover_of_a_kill_is_ignored_and_removed(tmp_path):
    folder = _save(tmp_path, step=1)
    leftover = tmp_path / ".state-00000002-00000000"
    leftover.mkdir()
    (leftover / "tensors.safetensors").write_bytes(b"half")
    assert load_state(tmp_path, key="k").step == 1
    newer = _save(tmp_path, step=2)
    assert list(tmp_path.iterdir()) == [newer] and newer != folder


def test_state_between_two_renames_is_the_newer_one(tmp_path):
    old = _save(tmp_path, step=1)
    kept = tmp_path.parent / "kept"
    old.rename(kept)
    _save(tmp_path, step=2)
    kept.rename(old)
    assert load_state(tmp_path, key="k").step == 2


def test_nothing_and_other_keys_start_afresh(tmp_path, caplog):
    assert load_state(tmp_path / "absent", key="k") is None
    _save(tmp_path, key="other")
    assert load_state(tmp_path, key="k") is None
    assert "belongs to a run of other settings" in caplog.text
    mine = _save(tmp_path, key="k", step=1)
    assert list(tmp_path.iterdir()) == [mine]


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "digests.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damage_is_named(tmp_path, name, damage):
    path = _save(tmp_path) / name
    data = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    with pytest.raises(DamagedState, match=r"state-00000120-.* is damaged .* delete that folder"):
        load_state(tmp_path, key="k")


@pytest.mark.parametrize("position", range(0, 60, 7))
def test_every_flipped_byte_of_the_tensors_is_seen(tmp_path, position):
    path = _save(tmp_path) / "tensors.safetensors"
    data = bytearray(path.read_bytes())
    data[-1 - position] ^= 0x80
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"tensors.safetensors has changed"):
        load_state(tmp_path, key="k")


def test_state_renamed_to_another_run_is_refused(tmp_path):
    folder = _save(tmp_path, key="other")
    theirs = folder.name
    mine = _save(tmp_path / "b", key="k").name
    folder.rename(tmp_path / mine)
    assert theirs != mine
    with pytest.raises(DamagedState, match="is of key 'other', not 'k'"):
        load_state(tmp_path, key="k")
