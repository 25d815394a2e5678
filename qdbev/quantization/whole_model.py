"""One call from a float model to a quantized one: fold, plan, calibrate, switch on, and say what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from qdbev.quantization.equalisation.faithful import CheckedRun
from qdbev.quantization.equalisation.folding import fold_batchnorm
from qdbev.quantization.grid.integers import MAX_BITS
from qdbev.quantization.layers.grids import InputGrid, WeightGrid
from qdbev.quantization.layers.summary import Summary, summary
from qdbev.quantization.layers.swap import forbid_fast_paths, observing, quantize, quantized_layers, set_parts
from qdbev.quantization.planning.calls import WatchedCalls
from qdbev.quantization.planning.plan import Plan
from qdbev.quantization.planning.policy import make_plan

Call = Callable[[nn.Module, Any], object]


def quantize_model(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    weight_bits: int = 4,
    activation_bits: int = 6,
    call: Call | None = None,
    parts: Mapping[str, Sequence[str]] | None = None,
    float_layers: Sequence[str] = (),
    observer: str = "mse",
) -> Summary:
    """Quantize any model in place; its quantizers are on afterwards, so it is evaluated or trained as it is.

    Batch norms are folded where a convolution or linear layer can take them. Ranges are those that the batches show.
    Layers that the batches do not run stay in float, and so do recurrent ones and convolutions over one or three axes;
    the summary names them with the reason. After an error the model may be changed in part: keep a copy.

    Args:
        model: A float model on any device.
        batches: Some typical inputs, 4 to 32 batches: tensors, tuples of arguments, or mappings of keywords. None of
            them should be evaluated later.
        weight_bits: Width of weights, 2..16.
        activation_bits: Width of the inputs of layers, 2..16.
        call: Runs the model on a batch, where it does not take batches as they come:
            ``lambda model, batch: model(batch["image"])``.
        parts: Part name -> prefixes of module paths, to switch parts by ``set_parts`` later; None: one part of all.
        float_layers: Patterns of layers that stay in float, such as ``"head.*"``.
        observer: What chooses ranges: ``mse`` (least squared error), ``minmax``, ``percentile``, ``entropy``.

    Returns:
        What was done; ``print`` shows it.

    Raises:
        ValueError: no batch, a model that does not take them, is quantized already, or has nothing to quantize.
    """
    run = call or _as_it_comes
    taken = list(batches)
    if not taken:
        raise ValueError("no batch to calibrate with: give a few typical inputs, such as 4 to 32 batches")
    _refuse_unchangeable(model)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            return _quantized(
                model,
                taken,
                run=run,
                grids=_grids(observer, activation_bits=activation_bits),
                plan_of=lambda unrun: make_plan(
                    model,
                    parts=parts or {"all": [""]},
                    weight_bits=weight_bits,
                    activation_bits=activation_bits,
                    float_layers=float_layers,
                    unrun=unrun,
                ),
            )
    finally:
        _restore(model, modes=modes)


def _restore(model: nn.Module, *, modes: Mapping[nn.Module, bool]) -> None:
    """Give every module its mode of training again; new ones, such as quantizers, that of what holds them."""
    training: dict[str, bool] = {}
    for path, module in model.named_modules():
        holder = path.rpartition(".")[0]
        module.training = training[path] = modes.get(module, training.get(holder, False))


def _refuse_unchangeable(model: nn.Module) -> None:
    """Raise ValueError for a model whose layers cannot be given quantizers."""
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError("a scripted model has no layers to change; quantize the model that it was made of")
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(f"{path} is scripted and has no layers to change; quantize first, with the module it was")
    if hasattr(model, "_orig_mod"):
        raise ValueError("a compiled model is traced already; quantize the model that it was made of, then compile")
    if quantized_layers(model):
        raise ValueError("the model is quantized already; start from the float model")


def _quantized(
    model: nn.Module,
    batches: Sequence[Any],
    *,
    run: Call,
    grids: tuple[WeightGrid, InputGrid],
    plan_of: Callable[[Mapping[str, str]], Plan],
) -> Summary:
    """Do it, in the order that each step needs of the one before."""
    forbid_fast_paths(model)
    before = _outputs(run(model, batches[0]))
    example = CheckedRun(model, lambda: run(model, batches[0]))
    calls = WatchedCalls(model, example)
    folding = fold_batchnorm(model, calls)
    example.rewritten("folding", changed=folding.changed)
    plan = plan_of(calls.reasons())
    if not plan.quantized:
        raise ValueError("nothing to quantize: the batches run no convolution, linear layer or attention of torch")
    quantize(model, plan, weights=grids[0], inputs=grids[1])
    example.rewritten("conversion")
    example()
    with observing(model):
        for batch in batches:
            run(model, batch)
    set_parts(model, {site.part for site in plan.quantized})
    change = _change(before, _outputs(run(model, batches[0])))
    return summary(model, plan=plan, folded=len(folding.pairs), change=change)


def _grids(observer: str, *, activation_bits: int) -> tuple[WeightGrid, InputGrid]:
    """Grids of weights and inputs; an unsigned grid takes integers of one bit more, of which 16 are the most."""
    return WeightGrid(observer=observer), InputGrid(observer=observer, may_be_unsigned=activation_bits < MAX_BITS)


def _as_it_comes(model: nn.Module, batch: Any) -> object:
    """Run a model on a tensor, a tuple of arguments or a mapping of keywords."""
    try:
        if isinstance(batch, Mapping):
            return model(**batch)
        return model(*batch) if isinstance(batch, list | tuple) else model(batch)
    except TypeError as error:
        raise ValueError(
            f"the model does not take a batch as it comes ({error}); say how it runs on one: "
            "call=lambda model, batch: model(batch[0])"
        ) from error


def _outputs(returned: object) -> list[Tensor]:
    """The floating-point tensors among what a model returned, as copies."""
    leaves = (leaf for leaf in tree_leaves(returned) if isinstance(leaf, Tensor) and leaf.is_floating_point())
    return [leaf.detach().clone() for leaf in leaves]


def _change(before: Sequence[Tensor], after: Sequence[Tensor]) -> float | None:
    """RMS difference as a share of the spread, the largest of all outputs; None where they cannot be compared."""
    if not before or [one.shape for one in before] != [one.shape for one in after]:
        return None
    pairs = [(one.double(), other.double()) for one, other in zip(before, after, strict=True) if one.numel()]
    shares = [((other - one).square().mean().sqrt() / (one.std(correction=0) + 1e-12)).item() for one, other in pairs]
    return max(shares, default=None)
