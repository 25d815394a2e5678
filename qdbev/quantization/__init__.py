"""Quantization of any ``nn.Module``: plan, quantize, calibrate, switch, pack, and what it costs.

In pure PyTorch. ``quantize_model(model, batches)`` does it in one call. Step by step: ``fold_batchnorm`` ->
``make_plan`` -> ``quantize`` -> ``with observing(model): ...`` -> ``set_parts(model, {...})`` -> train or evaluate ->
``pack_model``. Data-free quantization comes in between: after folding ``find_connections`` -> ``equalise`` ->
``absorb_biases``, after observing ``correct_analytically``. So do ``smooth``, before folding, and
``compensate_rounding``, ``adaptive_rounding`` or ``reconstruct``, after observing. ``choose_bits`` gives each layer its
own bits, ``with_bits`` puts them into a plan.
"""

from __future__ import annotations

from qdbev.quantization.equalisation.bias_absorption import Absorption, absorb_biases
from qdbev.quantization.equalisation.bias_correction import Correction, correct_analytically, correct_empirically
from qdbev.quantization.equalisation.connections import Connections, Pair, find_connections
from qdbev.quantization.equalisation.cross_layer import equalise, rescaled
from qdbev.quantization.equalisation.faithful import CheckedRun
from qdbev.quantization.equalisation.folding import Folding, apply_folding, find_pairs, fold_batchnorm
from qdbev.quantization.equalisation.smoothing import Smoothing, smooth
from qdbev.quantization.grid.fake_quantize import fake_quantize
from qdbev.quantization.grid.integers import dequantize, quantize_int, scale_of_range
from qdbev.quantization.layers.grids import InputGrid, WeightGrid
from qdbev.quantization.layers.keeping import Keeper
from qdbev.quantization.layers.live_norms import LiveNorms, thaw_norms
from qdbev.quantization.layers.model_ranges import (
    freeze_weight_ranges,
    hold_ranges,
    learn_ranges,
    range_penalty,
    ranges_missing,
    settle_ranges,
)
from qdbev.quantization.layers.observed import observe_on, observed
from qdbev.quantization.layers.packing import (
    pack_bits,
    pack_model,
    packed_bytes,
    packed_size_bytes,
    size_bytes,
    unpack_bits,
    unpack_model,
)
from qdbev.quantization.layers.quantizer import Quantizer
from qdbev.quantization.layers.summary import Summary, summary
from qdbev.quantization.layers.swap import (
    active_parts,
    finish_observing,
    observing,
    quantize,
    quantized_layers,
    set_parts,
    set_sites,
    start_observing,
)
from qdbev.quantization.planning.activation_memory import ActivationMemory, activation_memory
from qdbev.quantization.planning.bit_plan import Option, Problem, choose_bits, front, total_loss, with_bits
from qdbev.quantization.planning.calls import WatchedCalls
from qdbev.quantization.planning.cost import (
    BitOperations,
    bops,
    macs_by_part,
    mean_bits,
    mixed_size_mb,
    nearest_part,
    nominal_size_mb,
    parameters_by_part,
    pointwise_share,
    trainable_parameters,
    weights_by_site,
)
from qdbev.quantization.planning.hazards.hazard import REMEDIES, Hazard, hazard_counts
from qdbev.quantization.planning.hazards.watch import WatchedHazards
from qdbev.quantization.planning.hessian import hutchinson_traces, perturbation_loss
from qdbev.quantization.planning.macs import MacLine, count_macs, not_counted
from qdbev.quantization.planning.plan import FLOAT_BITS, FLOAT_OPERATIONS, Plan, Site
from qdbev.quantization.planning.policy import make_plan
from qdbev.quantization.planning.sharing import memory_of
from qdbev.quantization.ranges.observer_kinds import make_observer
from qdbev.quantization.ranges.trained_ranges import RANGE_PARAMETERS
from qdbev.quantization.rounding.adaround import adaptive_rounding
from qdbev.quantization.rounding.blocks import Compensation
from qdbev.quantization.rounding.brecq import Reconstruction, reconstruct
from qdbev.quantization.rounding.gptq import compensate_rounding
from qdbev.quantization.rounding.moments import InputMoments
from qdbev.quantization.whole_model import quantize_model

__all__ = [
    "FLOAT_BITS",
    "FLOAT_OPERATIONS",
    "RANGE_PARAMETERS",
    "REMEDIES",
    "Absorption",
    "ActivationMemory",
    "BitOperations",
    "CheckedRun",
    "Compensation",
    "Connections",
    "Correction",
    "Folding",
    "Hazard",
    "InputGrid",
    "InputMoments",
    "Keeper",
    "LiveNorms",
    "MacLine",
    "Option",
    "Pair",
    "Plan",
    "Problem",
    "Quantizer",
    "Reconstruction",
    "Site",
    "Smoothing",
    "Summary",
    "WatchedCalls",
    "WatchedHazards",
    "WeightGrid",
    "absorb_biases",
    "activation_memory",
    "active_parts",
    "adaptive_rounding",
    "apply_folding",
    "bops",
    "choose_bits",
    "compensate_rounding",
    "correct_analytically",
    "correct_empirically",
    "count_macs",
    "dequantize",
    "equalise",
    "fake_quantize",
    "find_connections",
    "find_pairs",
    "finish_observing",
    "fold_batchnorm",
    "freeze_weight_ranges",
    "front",
    "hazard_counts",
    "hold_ranges",
    "hutchinson_traces",
    "learn_ranges",
    "macs_by_part",
    "make_observer",
    "make_plan",
    "mean_bits",
    "memory_of",
    "mixed_size_mb",
    "nearest_part",
    "nominal_size_mb",
    "not_counted",
    "observe_on",
    "observed",
    "observing",
    "pack_bits",
    "pack_model",
    "packed_bytes",
    "packed_size_bytes",
    "parameters_by_part",
    "perturbation_loss",
    "pointwise_share",
    "quantize",
    "quantize_int",
    "quantize_model",
    "quantized_layers",
    "range_penalty",
    "ranges_missing",
    "reconstruct",
    "rescaled",
    "scale_of_range",
    "set_parts",
    "set_sites",
    "settle_ranges",
    "size_bytes",
    "smooth",
    "start_observing",
    "summary",
    "thaw_norms",
    "total_loss",
    "trainable_parameters",
    "unpack_bits",
    "unpack_model",
    "weights_by_site",
    "with_bits",
]
