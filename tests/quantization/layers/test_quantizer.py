"""The quantizer's states, its strict state, and following."""

from __future__ import annotations

import copy

import pytest
import torch

from qdbev.quantization.grid.integers import dequantize
from qdbev.quantization.layers.quantizer import Quantizer


def calibrated(*, bits: int = 4, r_max: float = 15.0) -> Quantizer:
    quantizer = Quantizer(name="toy.input_quantizer", bits=bits)
    quantizer.set_range(torch.tensor(r_max))
    quantizer.state = "on"
    return quantizer


def test_off_returns_the_very_tensor() -> None:
    quantizer, x = calibrated(), torch.randn(3)
    quantizer.state = "off"
    assert quantizer(x) is x


def test_on_quantizes_and_integers_agree() -> None:
    quantizer, x = calibrated(), torch.linspace(-20, 20, 41)
    integers = quantizer.integers(x)
    assert integers.dtype == torch.int8
    assert torch.equal(quantizer(x), dequantize(integers, scale=quantizer.scale))


@pytest.mark.parametrize("use", ["forward", "integers", "range"])
def test_without_a_range_it_refuses_and_says_its_name(use: str) -> None:
    quantizer = Quantizer(name="neck.conv.input_quantizer", bits=4)
    quantizer.state = "on"
    with pytest.raises(ValueError, match=r"neck\.conv\.input_quantizer has no range"):
        quantizer(torch.ones(2)) if use == "forward" else (
            quantizer.integers(torch.ones(2)) if use == "integers" else quantizer.range
        )


def test_observing_passes_through_and_makes_a_range() -> None:
    quantizer = Quantizer(name="toy", bits=4)
    quantizer.state = "observing"
    for x in (torch.tensor([1.0, -7.5]), torch.tensor([3.0])):
        assert quantizer(x) is x
    assert quantizer.finish_observing() and quantizer.state == "off"
    assert quantizer.range.item() == 7.5 and quantizer.scale.item() == 1.0


def test_observing_nothing_leaves_it_as_it_was() -> None:
    fresh, old = Quantizer(name="toy", bits=4), calibrated()
    for quantizer in (fresh, old):
        quantizer.state = "observing"
        assert not quantizer.finish_observing()
    assert not fresh.has_range and old.range.item() == 15.0


def test_observing_names_itself_when_values_are_bad() -> None:
    quantizer = Quantizer(name="encoder.linear.input_quantizer", bits=4)
    quantizer.state = "observing"
    with pytest.raises(ValueError, match=r"encoder\.linear\.input_quantizer: .*NaN"):
        quantizer(torch.tensor([float("nan")]))


def test_a_frozen_range_does_not_move_in_training() -> None:
    quantizer = calibrated().train()
    quantizer(torch.full((4,), 100.0))
    assert quantizer.range.item() == 15.0


def test_ema_moves_the_range_in_training_only() -> None:
    quantizer = Quantizer(name="toy", bits=4, ema_momentum=0.75)
    quantizer.set_range(torch.tensor(15.0))
    quantizer.state = "on"
    quantizer.eval()(torch.tensor([30.0]))
    assert quantizer.range.item() == 15.0
    quantizer.train()(torch.tensor([30.0, -1.0]))
    assert quantizer.range.item() == pytest.approx(0.75 * 15 + 0.25 * 30)


def test_following_takes_the_range_of_each_weight() -> None:
    quantizer = Quantizer(name="toy", bits=4, axis=0, channels=2, follow=True)
    quantizer.state = "on"
    quantizer(torch.tensor([[7.5, 1.0], [-15.0, 0.0]]))
    assert quantizer.scale.tolist() == [1.0, 2.0]
    quantizer.eval()(torch.tensor([[15.0, 1.0], [-7.5, 0.0]]))
    assert quantizer.scale.tolist() == [2.0, 1.0]


def test_freezing_keeps_the_last_range() -> None:
    quantizer = Quantizer(name="toy", bits=4, follow=True)
    quantizer.freeze(torch.tensor([15.0]))
    quantizer.state = "on"
    assert quantizer(torch.tensor([30.0])).item() == 14.0 and not quantizer.follows


def test_only_minmax_can_follow() -> None:
    with pytest.raises(ValueError, match="min-max range can follow"):
        Quantizer(name="toy", bits=4, observer="mse", follow=True)


def test_state_survives_a_round_trip_and_a_copy() -> None:
    quantizer, x = calibrated(bits=6), torch.randn(50) * 9
    fresh = Quantizer(name="other", bits=6)
    fresh.load_state_dict(quantizer.state_dict(), strict=True)
    fresh.state = "on"
    assert torch.equal(fresh(x), quantizer(x)) and torch.equal(copy.deepcopy(quantizer)(x), quantizer(x))


def test_following_survives_a_round_trip() -> None:
    quantizer = Quantizer(name="toy", bits=4, follow=True)
    frozen = Quantizer(name="toy", bits=4, follow=True)
    frozen.freeze(torch.tensor([15.0]))
    quantizer.load_state_dict(frozen.state_dict())
    assert not quantizer.follows and quantizer.range.item() == 15.0


@pytest.mark.parametrize("other", [{"bits": 8}, {"scale_rule": "hawq"}, {"narrow_range": True}])
def test_a_state_of_another_format_is_refused(other: dict[str, object]) -> None:
    settings: dict[str, object] = {"bits": 4} | other
    with pytest.raises(RuntimeError, match=r"toy.*was saved with"):
        Quantizer(name="toy", **settings).load_state_dict(calibrated().state_dict())  # type: ignore[arg-type]


@pytest.mark.parametrize("missing", ["scale", "flags"])
def test_an_incomplete_state_is_refused(missing: str) -> None:
    state = calibrated().state_dict()
    del state[missing]
    with pytest.raises(RuntimeError, match=missing):
        Quantizer(name="toy", bits=4).load_state_dict(state)


def test_a_state_without_range_still_refuses_to_run() -> None:
    loaded = Quantizer(name="toy", bits=4)
    loaded.load_state_dict(Quantizer(name="toy", bits=4).state_dict())
    loaded.state = "on"
    with pytest.raises(ValueError, match="no range"):
        loaded(torch.ones(1))


@pytest.mark.parametrize("bad", [torch.tensor(float("nan")), torch.tensor(-1.0), torch.ones(2)])
def test_impossible_ranges_are_refused(bad: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="toy"):
        Quantizer(name="toy", bits=4).set_range(bad)


def test_an_unknown_state_is_refused() -> None:
    with pytest.raises(ValueError, match="'off', 'observing', 'on'"):
        Quantizer(name="toy", bits=4).state = "maybe"  # type: ignore[assignment]


def test_repr_says_what_matters() -> None:
    assert calibrated().extra_repr() == "4 bits, per tensor, qdbev, range, on"


def _calibrated(x, *, bits, observer="minmax", allowed=True):
    quantizer = Quantizer(name="input", bits=bits, observer=observer, may_be_unsigned=allowed)
    quantizer.state = "observing"
    quantizer(x)
    quantizer.finish_observing()
    quantizer.state = "on"
    return quantizer


@pytest.mark.parametrize("observer", ["minmax", "percentile", "mse", "entropy", "moving_average"])
def test_what_is_never_negative_gets_unsigned_integers(observer):
    """Against torch's own unsigned grid; the range and all integers are used, and half the step of the signed grid."""
    x = torch.rand(4000, generator=torch.Generator().manual_seed(0)) * 3
    quantizer = _calibrated(x, bits=4, observer=observer)
    assert quantizer.unsigned and quantizer.grid_bits == 5
    integers = quantizer.integers(x)
    assert (int(integers.min()), int(integers.max())) == (0, 15)
    scale = float(quantizer.scale)
    expected = torch.fake_quantize_per_tensor_affine(x, scale, 0, 0, 15)
    ties = ((x / scale) % 1 - 0.5).abs() < 1e-4
    torch.testing.assert_close(quantizer(x)[~ties], expected[~ties])
    signed = _calibrated(x, bits=4, observer=observer, allowed=False)
    assert not signed.unsigned
    assert (quantizer(x) - x).square().mean() < 0.35 * (signed(x) - x).square().mean()


def test_one_negative_value_keeps_the_sign():
    quantizer = _calibrated(torch.tensor([3.0, -0.1, 1.0]), bits=4)
    assert not quantizer.unsigned and quantizer.grid_bits == 4


def test_unsigned_values_below_zero_become_zero_without_gradient():
    quantizer = _calibrated(torch.tensor([0.0, 3.1]), bits=4)
    x = torch.tensor([-2.0, 1.0], requires_grad=True)
    quantizer(x).sum().backward()
    assert quantizer(x)[0] == 0 and x.grad.tolist() == [0.0, 1.0]
    assert torch.equal(quantizer.integers(x).float() * quantizer.scale, quantizer(x))


def test_the_sign_is_saved_and_learned_ranges_keep_it():
    quantizer = _calibrated(torch.tensor([0.0, 3.1]), bits=4)
    other = Quantizer(name="input", bits=4)
    other.load_state_dict(quantizer.state_dict())
    assert other.unsigned and torch.equal(other.range, quantizer.range)
    other.state = "on"
    x = torch.linspace(-1, 4, 30)
    fixed = other(x)
    other.learn()
    torch.testing.assert_close(other(x), fixed)
    other.settle()
    torch.testing.assert_close(other(x), fixed)
