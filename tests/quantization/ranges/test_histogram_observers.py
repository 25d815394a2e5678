"""Percentile, squared error and entropy against brute force in numpy, and independence of the batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qdbev.quantization.ranges.histogram_observers import (
    EntropyObserver,
    MseObserver,
    PercentileObserver,
)
from qdbev.quantization.ranges.observer_kinds import make_observer


def samples(kind: str, *, count: int = 20_000, seed: int = 0) -> torch.Tensor:
    generator = np.random.default_rng(seed)
    drawn = {
        "normal": generator.normal(size=count),
        "laplace": generator.laplace(size=count),
        "relu": np.maximum(generator.normal(size=count), 0.0),
        "outliers": np.concatenate([generator.normal(size=count - 10), 30 * generator.normal(size=10)]),
    }
    return torch.tensor(drawn[kind], dtype=torch.float32)


def squared_error(x: np.ndarray, *, r_max: float, bits: int) -> float:
    scale = 2 * r_max / (2**bits - 1)
    grid = np.clip(np.rint(x / scale), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * scale
    return float(np.mean((x - grid) ** 2))


@settings(max_examples=30)
@given(percentile=st.floats(1.0, 99.99), kind=st.sampled_from(["normal", "laplace", "relu", "outliers"]))
def test_percentile_lies_in_the_bin_of_numpys(percentile: float, kind: str) -> None:
    x = samples(kind, count=3000)
    observer = PercentileObserver(percentile=percentile)
    observer.update(x)
    exact = np.percentile(np.abs(x.numpy()), percentile, method="inverted_cdf")
    assert abs(observer.range().item() - exact) <= float(observer.histogram.bin_width) * 1.001


def test_the_hundredth_percentile_is_the_maximum() -> None:
    x = samples("outliers")
    observer = PercentileObserver(percentile=100.0)
    observer.update(x)
    assert observer.range().item() == x.abs().max().item()


@pytest.mark.parametrize("percentile", [0.0, -1.0, 100.1])
def test_impossible_percentiles_are_refused(percentile: float) -> None:
    with pytest.raises(ValueError, match="percentile"):
        PercentileObserver(percentile=percentile)


@pytest.mark.parametrize("bits", [3, 4, 6, 8])
@pytest.mark.parametrize("kind", ["normal", "laplace", "relu", "outliers"])
def test_mse_range_is_as_good_as_brute_force(bits: int, kind: str) -> None:
    x = samples(kind)
    observer = MseObserver(bits=bits)
    observer.update(x)
    values, largest = x.numpy().astype(np.float64), float(x.abs().max())
    errors = [squared_error(values, r_max=largest * share / 100, bits=bits) for share in range(1, 101)]
    ours = squared_error(values, r_max=observer.range().item(), bits=bits)
    assert ours <= min(errors) * 1.01
    assert ours <= errors[-1]  # never worse than min-max


def test_mse_clips_outliers_at_four_bits() -> None:
    x = samples("outliers")
    observer = MseObserver(bits=4)
    observer.update(x)
    assert observer.range().item() < 0.5 * x.abs().max().item()


@pytest.mark.parametrize("bits", [4, 6])
def test_mse_per_channel_is_as_good_as_brute_force(bits: int) -> None:
    x = torch.stack([samples("normal", count=500), samples("laplace", count=500) * 5])
    observer = MseObserver(bits=bits, axis=0)
    observer.update(x)
    for row, r_max in zip(x.numpy().astype(np.float64), observer.range().tolist(), strict=True):
        errors = [squared_error(row, r_max=np.abs(row).max() * s / 100, bits=bits) for s in range(1, 101)]
        assert squared_error(row, r_max=r_max, bits=bits) <= min(errors) * 1.05


def entropy_by_hand(counts: np.ndarray, *, bits_in_range: float, bits: int) -> float:
    """KL of the entropy calibration, written with loops."""
    inside = max(1, int(np.ceil(bits_in_range)))
    clipped = counts[:inside].astype(float)
    reference = clipped.copy()
    reference[-1] += counts[inside:].sum()
    scale = 2 * bits_in_range / (2**bits - 1)
    level = [min(int(np.rint((i + 0.5) / scale)), 2 ** (bits - 1) - 1) for i in range(len(clipped))]
    quantized = np.zeros_like(clipped)
    for value in set(level):
        members = [i for i, of in enumerate(level) if of == value and reference[i] > 0]
        for i in members:
            quantized[i] = sum(clipped[j] for j in range(len(clipped)) if level[j] == value) / len(members)
    p, q = reference / reference.sum(), quantized / max(quantized.sum(), 1.0)
    with np.errstate(divide="ignore"):
        return float(sum(pi * (np.log(pi) - np.log(qi)) for pi, qi in zip(p, q, strict=True) if pi > 0))


@pytest.mark.parametrize("kind", ["normal", "relu", "outliers"])
@pytest.mark.parametrize("bits", [4, 6])
def test_entropy_range_has_the_least_divergence(kind: str, bits: int) -> None:
    x = samples(kind, count=4000)
    observer = EntropyObserver(bits=bits, bins=256)
    observer.update(x)
    width, largest = float(observer.histogram.bin_width), float(x.abs().max())
    counts = np.histogram(np.abs(x.numpy()), bins=256, range=(0, 256 * width))[0]
    shares = range(1, 101)
    divergences = [entropy_by_hand(counts, bits_in_range=largest * s / 100 / width, bits=bits) for s in shares]
    best = min(divergences)
    winners = [largest * s / 100 for s, value in zip(shares, divergences, strict=True) if value <= best + 1e-9]
    assert min(abs(observer.range().item() - winner) for winner in winners) <= 1e-5 * largest


def test_entropy_per_channel_is_refused() -> None:
    with pytest.raises(ValueError, match="per tensor only"):
        make_observer("entropy", bits=4, axis=0)


@pytest.mark.parametrize("kind", ["percentile", "mse", "entropy"])
def test_batches_may_come_in_any_cut_and_order(kind: str) -> None:
    x = samples("laplace", count=600)
    ranges = []
    for cut in ([x], x.split(100), list(x.split(7))[::-1]):
        observer = make_observer(kind, bits=4, percentile=99.0)
        for batch in cut:
            observer.update(batch)
        ranges.append(observer.range().item())
    assert ranges[0] == ranges[1] == ranges[2]
