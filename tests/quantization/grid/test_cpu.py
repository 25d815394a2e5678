"""The compiled kernels against torch operations: the same bits, over layouts, axes and threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module

import pytest
import torch

from qdbev.quantization.grid import cpu_loops, kernels
from qdbev.quantization.grid.clipped_steps import Clipping
from qdbev.quantization.grid.fake_quantize import fake_quantize, fake_quantize_learned
from qdbev.quantization.grid.integers import as_bytes, clamped_steps, dequantize, quantize_int
from qdbev.quantization.grid.kernels import kernel_for

Outcome = tuple[torch.Tensor, ...]

LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "first two exchanged": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "with gaps": lambda x: x.repeat(1, 1, 1, 2)[..., ::2],
}


@contextmanager
def torch_operations() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_cpu_kernels", "_gpu_kernels"):
            patch.setattr(kernels, name, lambda: None)
        yield


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def outcome(x: torch.Tensor, *, axis: int | None, bits: int, unsigned: bool, learned: bool) -> Outcome:
    """Result, gradient to the values, gradient to the logarithm of the scale."""
    leaf = x.detach().requires_grad_()
    log_scale = torch.full((1 if axis is None else x.shape[axis],), 3.0 / 2**bits).log()
    log_scale = log_scale.add(torch.arange(len(log_scale)) / 7).requires_grad_(learned)
    options = {"bits": bits, "axis": axis, "unsigned": unsigned}
    if learned:
        y = fake_quantize_learned(leaf, log_scale=log_scale, **options)  # type: ignore[arg-type]
    else:
        y = fake_quantize(leaf, scale=log_scale.exp(), **options)  # type: ignore[arg-type]
    y.backward(normal(*x.shape, seed=1))
    assert leaf.grad is not None
    return (y.detach(), leaf.grad) if log_scale.grad is None else (y.detach(), leaf.grad, log_scale.grad)


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_kernels_and_torch_operations_agree(layout: str, axis: int | None, unsigned: bool, learned: bool) -> None:
    x = LAYOUTS[layout](normal(5, 4, 6, 7, seed=0))
    taken = kernel_for(x, axis=axis) is not None
    by_kernel = {
        "contiguous": True,
        "channels last": axis != 1,
        "first two exchanged": axis is None,
        "with gaps": False,
    }
    assert taken == by_kernel[layout]
    ours = outcome(x, axis=axis, bits=4, unsigned=unsigned, learned=learned)
    with torch_operations():
        theirs = outcome(x, axis=axis, bits=4, unsigned=unsigned, learned=learned)
    assert (
        torch.equal(ours[0], theirs[0]) and torch.equal(ours[1], theirs[1]) and ours[0].stride() == theirs[0].stride()
    )
    torch.testing.assert_close(ours[2:], theirs[2:], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("axis", [None, 0])
def test_threads_share_a_large_tensor(axis: int | None) -> None:
    x = normal(3, 500_000, seed=0)
    alone = outcome(x, axis=axis, bits=6, unsigned=False, learned=True)
    with threads(3):
        shared = outcome(x, axis=axis, bits=6, unsigned=False, learned=True)
    assert torch.equal(alone[0], shared[0]) and torch.equal(alone[1], shared[1])
    torch.testing.assert_close(alone[2], shared[2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
@pytest.mark.parametrize("axis", [None, 0, -1])
def test_what_is_packed_is_what_is_trained_on(bits: int, axis: int | None) -> None:
    """Integers by the kernel, by torch operations, and behind the training forward are the same."""
    x = normal(40, 50, seed=bits)
    x[0] = torch.arange(50) * 0.05  # ties among them
    scale = torch.full((1,) if axis is None else (x.shape[axis],), 0.1)
    packed = quantize_int(x, scale=scale, bits=bits, axis=axis)
    with torch_operations():
        assert torch.equal(packed, quantize_int(x, scale=scale, bits=bits, axis=axis))
    for leaf in (x, x.clone().requires_grad_()):
        trained = fake_quantize(leaf, scale=scale, bits=bits, axis=axis)
        assert torch.equal(dequantize(packed, scale=scale, axis=axis), trained)
    learned = fake_quantize_learned(x, log_scale=scale.log(), bits=bits, axis=axis)
    assert torch.equal(learned, fake_quantize(x, scale=scale.log().exp(), bits=bits, axis=axis))


@pytest.mark.parametrize(("axis", "scales"), [(None, 2), (0, 2), (1, 3)])
def test_scales_that_do_not_fit_are_refused(axis: int | None, scales: int) -> None:
    with pytest.raises(ValueError, match=rf"{scales} scales do not fit a tensor of shape \(3, 2\) along axis {axis}"):
        fake_quantize(torch.ones(3, 2), scale=torch.ones(scales), bits=4, axis=axis)


def test_other_types_and_empty_tensors_are_left_to_torch() -> None:
    for x in (torch.zeros(0, 3), torch.ones(2).double(), torch.ones(2).bfloat16(), torch.ones(2, device="meta")):
        assert kernel_for(x, axis=None) is None


@pytest.mark.parametrize("axis", [None, 0])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("low", [-8, 0])
def test_one_pass_is_the_two_it_stands_for(low: int, count: int, axis: int | None) -> None:
    grid_cpu = import_module("qdbev.quantization.grid.cpu")
    x, grad_output = normal(3, 1 << 20, seed=0), normal(3, 1 << 20, seed=1)
    scale = torch.tensor(0.1) if axis is None else torch.tensor([0.1, 0.2, 0.3])
    grid = {"scale": scale, "axis": axis, "low": low, "high": 7}
    with threads(count):
        recomputed, grad_input, grad_scale = grid_cpu.recomputed_and_grads(grad_output, x, learned=True, **grid)
        assert torch.equal(recomputed, grid_cpu.onto_grid(x, rescale=True, **grid))
        alone = grid_cpu.grad_input_and_log_scale(grad_output, x, **grid)
    assert torch.equal(grad_input, alone[0]) and not torch.equal(grad_input, grad_output)
    torch.testing.assert_close(grad_scale, alone[1])


def learned(*values: float) -> torch.Tensor:
    return torch.tensor(values if len(values) > 1 else values[0], requires_grad=True)


CLIPPINGS: dict[str, Callable[[], Clipping]] = {
    "lsq": lambda: Clipping.stepped(learned(0.25), None, axis=None, low=-8, high=7),
    "lsq, unsigned": lambda: Clipping.stepped(learned(0.25), None, axis=None, low=0, high=7),
    "lsq, channels": lambda: Clipping.stepped(learned(0.25, 0.1, 0.3), None, axis=0, low=-7, high=7),
    "lsq, inner channels": lambda: Clipping.stepped(learned(0.25, 0.1), None, axis=1, low=-8, high=7),
    "lsq+": lambda: Clipping.stepped(learned(0.25), learned(0.375), axis=None, low=-8, high=7),
    "lsq+, held": lambda: Clipping.stepped(torch.tensor(0.25), torch.tensor(0.375), axis=None, low=-8, high=7),
    "pact": lambda: Clipping.at_level(learned(1.25), steps_per_range=7.5, low=-8, high=7),
    "pact, unsigned": lambda: Clipping.at_level(learned(1.25), steps_per_range=15, low=0, high=15),
}


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("kind", CLIPPINGS)
def test_one_pass_of_what_is_clipped_before_rounding_is_that_of_torch(kind: str, count: int) -> None:
    x, gradient = normal(3, 2, 400_000, seed=0), normal(3, 2, 400_000, seed=1)
    x[..., :1000] = (x[..., :1000] * 16).round() / 8  # on the grid, at its limits, halfway between
    x[0, 0, :2] = torch.tensor([-0.0, torch.inf])
    clipping = CLIPPINGS[kind]()
    with threads(count):
        recomputed, grad_input, grads = clipping.recompute_and_pass_back(gradient.clone(), x, rectified=False)
    with torch_operations():
        expected = clipping.recompute_and_pass_back(gradient.clone(), x, rectified=False)
    assert torch.equal(recomputed, expected[0]) and torch.equal(recomputed.signbit(), expected[0].signbit())
    assert torch.equal(grad_input, expected[1]) and (grad_input == 0).any()
    wanted = [tensor is not None and tensor.requires_grad for tensor in clipping.learned]
    for ours, theirs, asked in zip(grads, expected[2], wanted, strict=True):
        assert (theirs is not None) == asked
        if asked:
            torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=2e-3)


@pytest.mark.parametrize("kind", CLIPPINGS)
def test_a_fresh_gradient_gives_its_memory_to_that_of_the_input(kind: str) -> None:
    x, gradient = normal(3, 2, 8, seed=0), normal(3, 2, 8, seed=1)
    _, grad_input, _ = CLIPPINGS[kind]().recompute_and_pass_back(gradient, x, rectified=False)
    assert grad_input.data_ptr() == gradient.data_ptr()


def test_where_compiled_code_cannot_be_kept_it_is_compiled_all_the_same() -> None:
    asked: list[dict[str, object]] = []

    def compile(**options: object) -> Callable[..., object]:
        asked.append(options)
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: ("compiled", function)

    found = cpu_loops._or_without_cache(compile, abs, error_model="numpy")
    assert found == ("compiled", abs)
    assert asked == [{"cache": True, "error_model": "numpy"}, {"error_model": "numpy"}]


@pytest.mark.parametrize("kind", CLIPPINGS)
def test_what_is_no_number_is_none_in_what_is_clipped_before_rounding(kind: str) -> None:
    x = normal(3, 2, 8, seed=0)
    x[1, 1, 3] = torch.nan
    clipping = CLIPPINGS[kind]()
    recomputed, _, _ = clipping.recompute_and_pass_back(torch.ones_like(x), x, rectified=False)
    assert torch.equal(recomputed.isnan(), x.isnan()) and torch.equal(clipping.onto_grid(x).isnan(), x.isnan())


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("limits", [(-8, 7), (-128, 127), (0, 63), (0, 255)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_bytes_are_the_integers(layout: str, limits: tuple[int, int], signed: bool) -> None:
    x = LAYOUTS[layout](normal(5, 4, 6, 7, seed=0) * 9)
    x[0, 0, 0] = torch.arange(7) * 0.05  # ties among them
    axis, scale = (0, torch.linspace(0.1, 0.3, 5)) if signed else (None, torch.tensor(0.1))
    low, high = limits
    made = as_bytes(x, scale=scale, low=low, high=high, axis=axis, signed=signed)
    if layout == "with gaps" or (signed and high > 127) or (axis == 0 and layout == "first two exchanged"):
        assert made is None
        return
    assert made is not None and made.values.dtype == (torch.int8 if signed else torch.uint8)
    assert made.values.stride() == x.stride() and made.zero == (128 if low < 0 and not signed else 0)
    expected = clamped_steps(x, scale=scale, low=low, high=high, axis=axis)
    assert torch.equal(made.values.float() - made.zero, expected)


@pytest.mark.parametrize("axis", [None, 0])
def test_threads_share_bytes(axis: int | None) -> None:
    x, scale = normal(3, 500_000, seed=0), torch.tensor([0.1, 0.2, 0.3])[: 1 if axis is None else 3]
    alone = as_bytes(x, scale=scale, low=-32, high=31, axis=axis)
    with threads(3):
        shared = as_bytes(x, scale=scale, low=-32, high=31, axis=axis)
        x[2, -1] = torch.nan
        assert as_bytes(x, scale=scale, low=-32, high=31, axis=axis) is None
    assert alone is not None and shared is not None and torch.equal(alone.values, shared.values)


@pytest.mark.parametrize("lost", ["value", "scale"])
def test_bytes_hide_nothing_that_is_no_number(lost: str) -> None:
    x, scale = normal(4, 300, seed=0), torch.ones(4)
    (x[3] if lost == "value" else scale)[-1:] = torch.nan
    assert as_bytes(x, scale=scale, low=-8, high=7, axis=0, signed=True) is None
    assert as_bytes(torch.tensor([torch.inf, 1.0]), scale=torch.tensor(1.0), low=0, high=7) is not None
