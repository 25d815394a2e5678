"""Tensors on disk: exact in every kind of number, whole or absent, and never wrong."""

from __future__ import annotations

import pytest
import torch

from qdbev.distillation.feature_cache import FeatureCache


@pytest.fixture
def cache(tmp_path):
    return FeatureCache(tmp_path / "teacher")


def _tensors():
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(2, 3, 4, generator=generator)
    return {"image.0": wide, "bev_BQC": wide.bfloat16().transpose(0, 1), "logits": wide.half(), "mask": wide > 0}


def test_what_is_read_is_what_was_written(cache):
    cache.save("a", _tensors())
    loaded = cache.load("a")
    assert set(loaded) == set(_tensors())
    for name, tensor in _tensors().items():
        assert loaded[name].dtype == tensor.dtype and torch.equal(loaded[name], tensor)


def test_a_later_save_replaces_and_leaves_one_file(cache):
    cache.save("a", _tensors())
    cache.save("a", {"bev_BQC": torch.ones(2)})
    assert cache.load("a")["bev_BQC"].tolist() == [1.0, 1.0]
    assert [path.name for path in cache.folder.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("damage", ["absent", "empty", "cut", "flipped", "text", "another"])
def test_a_damaged_file_counts_as_absent(cache, damage):
    cache.save("a", _tensors())
    path = cache.folder / "a.safetensors"
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-7] ^= 1
    written = {"empty": b"", "cut": whole[:-5], "flipped": bytes(flipped), "text": b"not tensors at all" * 9}
    if damage == "absent":
        path.unlink()
    elif damage == "another":  # whole, but by someone who states no checksum
        from safetensors.torch import save_file

        save_file({"bev_BQC": torch.ones(2)}, path)
    else:
        path.write_bytes(written[damage])
    assert cache.load("a") is None
    cache.save("a", _tensors())
    assert torch.equal(cache.load("a")["image.0"], _tensors()["image.0"])


def test_a_write_that_fails_leaves_nothing(cache, monkeypatch):
    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qdbev.distillation.feature_cache.os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        cache.save("a", _tensors())
    assert [*cache.folder.iterdir()] == []
