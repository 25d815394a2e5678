"""A quantized detector as an artifact: structure, packed weights to deploy, latent weights to go on training, cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from safetensors.torch import load_file

from pipelines.assembly.detector import Detector, build_detector
from pipelines.assembly.example import Example
from pipelines.assembly.samples import Split
from pipelines.assembly.strict_loading import load_strictly
from pipelines.assembly.tensors import write_tensors
from pipelines.lineage.kinds import LATENT, STRUCTURE, WEIGHTS
from pipelines.store.artifacts import Artifact
from profiles import Profile
from profiles.sections.quantization import QuantizationProfile
from qdbev.quantization import (
    FLOAT_BITS,
    CheckedRun,
    Folding,
    InputGrid,
    MacLine,
    Plan,
    Site,
    WatchedCalls,
    WeightGrid,
    apply_folding,
    bops,
    count_macs,
    fold_batchnorm,
    learn_ranges,
    make_plan,
    mean_bits,
    mixed_size_mb,
    nominal_size_mb,
    not_counted,
    pack_model,
    pointwise_share,
    quantize,
    set_parts,
    unpack_model,
    weights_by_site,
    with_bits,
)

Bits = Mapping[str, tuple[int, int]]
"""Path of each quantized site -> bits of its weights and of its inputs."""


@dataclass
class Quantized:
    """A detector with quantizers, and what is needed to build it again."""

    detector: Detector
    folding: Folding
    plan: Plan
    parts: tuple[str, ...] = ()
    """Parts that are switched on; those that have no quantized layer change nothing."""

    def switch_on(self, parts: Sequence[str]) -> None:
        """Switch exactly these parts on."""
        set_parts(self.detector, self._quantized_parts().intersection(parts))
        self.parts = tuple(parts)

    @property
    def complete(self) -> bool:
        """Whether every part that has a quantized layer is on."""
        return self._quantized_parts() <= set(self.parts)

    def _quantized_parts(self) -> set[str]:
        return {site.part for site in self.plan.quantized}


def quantized_from_float(detector: Detector, *, profile: Profile, split: Split, bits: Bits | None = None) -> Quantized:
    """Fold batch norms and put quantizers in place, all off and without activation ranges.

    Args:
        detector: A float detector; changed in place.
        profile: Its quantization section says how.
        split: Two frames of it are run to find which batch norm follows which convolution and which layers prediction
            runs, and again to see that outputs are what they were.
        bits: Those of a bit plan, in place of the profile's.

    Raises:
        ValueError: A rewrite changed what the detector computes.
    """
    example = CheckedRun(detector, Example(detector, profile=profile, split=split))
    return checked_quantized(detector, example=example, profile=profile, bits=bits)


def checked_quantized(
    detector: Detector, *, example: CheckedRun, profile: Profile, bits: Bits | None = None
) -> Quantized:
    """The same, with the example that rewrites before this one were checked by."""
    calls = WatchedCalls(detector, example)
    folding = fold_batchnorm(detector, calls)
    _refuse_changed_taps(detector, folding=folding)
    example.rewritten("folding", changed=folding.changed)
    quantized = with_quantizers(detector, folding, profile=profile, bits=bits, unrun=calls.reasons())
    example.rewritten("conversion")
    example()
    return quantized


def _refuse_changed_taps(detector: Detector, *, folding: Folding) -> None:
    """Refuse taps on what a layer gives before its batch norm: folded, it gives what comes out of the norm."""
    taps: Mapping[str, str | None] = getattr(detector, "stated_taps", {})
    for name, path in taps.items():
        if path in folding.changed:
            raise ValueError(
                f"mmdet3d.taps.{name} is {path}, whose output changes as the batch norm behind it is folded into it; "
                "name that norm, or a module behind it"
            )


def folded(detector: Detector, *, profile: Profile, split: Split) -> Folding:
    """Fold the batch norms of a float detector, in place; see ``quantized_from_float``."""
    example = CheckedRun(detector, Example(detector, profile=profile, split=split))
    folding = fold_batchnorm(detector, example)
    example.rewritten("folding", changed=folding.changed)
    example()
    return folding


def with_quantizers(
    detector: Detector,
    folding: Folding,
    *,
    profile: Profile,
    bits: Bits | None = None,
    unrun: Mapping[str, str] = MappingProxyType({}),
) -> Quantized:
    """Put quantizers into a folded detector, in place, all off and without activation ranges.

    Args:
        detector: Folded.
        folding: How.
        profile: Its quantization section says how.
        bits: Those of a bit plan, in place of the profile's.
        unrun: Path of a layer that prediction does not run -> why it stays in float.

    Raises:
        ValueError: Every layer stays in float, so that the bits of the profile would be said of a float detector.
    """
    plan = detector_plan(detector, section=profile.quantization, unrun=unrun)
    if bits is not None:
        plan = with_bits(plan, bits)
    if not plan.quantized:
        raise ValueError(
            f"no layer is quantized: all stay in float (the first: {plan.sites[0].reason}); look at "
            "quantization.float_layers"
        )
    _insert(detector, plan=plan, section=profile.quantization)
    return Quantized(detector, folding, plan)


def detector_plan(
    detector: Detector, *, section: QuantizationProfile, unrun: Mapping[str, str] = MappingProxyType({})
) -> Plan:
    """The plan of a float detector by its four parts; its last layers are those that class and box come out of."""
    plan = make_plan(
        detector,
        parts=detector.parts(),
        weight_bits=section.weight_bits,
        activation_bits=section.activation_bits,
        first_last_bits=section.first_last_bits,
        last_sites=detector.output_layers(),
        embedding=section.embedding,
        float_layers=section.float_layers,
        unrun=unrun,
    )
    if section.first_positions == "quantized":
        return plan
    sites = tuple(_in_float(site) if site.path in detector.first_positions() else site for site in plan)
    return replace(plan, sites=sites)


def _in_float(site: Site) -> Site:
    reason = "gives the first sampling coordinates, which no image changes: constants, kept in float"
    return replace(site, weight_bits=FLOAT_BITS, activation_bits=FLOAT_BITS, reason=reason)


def learn_ranges_of(quantized: Quantized, *, section: QuantizationProfile) -> None:
    """Make the ranges of the quantizers that are on parameters, where the section wants them learned; in place.

    That of the images stays: its gradient needs that of the first convolution to its input, the dearest of all.
    """
    first = quantized.plan.first_layer
    learn_ranges(
        quantized.detector,
        weights=section.weight_range == "learned",
        inputs=section.learns_activations,
        fixed_inputs=() if first is None else (first,),
        form=section.learned_scale,
        clip=section.activation_range == "pact",
    )


def structure_of(quantized: Quantized) -> dict[str, Any]:
    """What builds the detector again, beside profile and tensors, as plain JSON."""
    return {
        "pairs": [list(pair) for pair in quantized.folding.pairs],
        "kept": quantized.folding.unfolded,
        "plan": quantized.plan.to_json(),
        "parts": list(quantized.parts),
        "packed": quantized.complete,
    }


def write_quantized(folder: Path, *, quantized: Quantized, profile: Profile) -> None:
    """Write ``latent.safetensors``, ``structure.json`` and, with all parts on, the packed ``model.safetensors``."""
    structure = structure_of(quantized)
    (folder / STRUCTURE).write_text(json.dumps(structure, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    write_tensors(folder / LATENT, quantized.detector.state_dict())
    if quantized.complete:
        write_tensors(folder / WEIGHTS, pack_model(quantized.detector, rest="fp16"))


def load_quantized(artifact: Artifact, *, profile: Profile, latent: bool = False) -> Quantized:
    """The detector of an artifact, its parts switched on.

    Args:
        artifact: Of kind calibration, qat or vgd.
        profile: The model section must be the artifact's; the quantization section its quantizer's.
        latent: Take the float weights behind the integers, to go on training; otherwise, where there is one, the
            packed model that would be deployed.
    """
    structure = json.loads(artifact.file(STRUCTURE).read_text(encoding="utf-8"))
    quantized = built(structure, profile=profile)
    packed = structure["packed"] and not latent
    state = unpack_model(load_file(artifact.file(WEIGHTS))) if packed else load_file(artifact.file(LATENT))
    load_strictly(quantized.detector, state=state, origin=artifact.path.name)
    quantized.switch_on(structure["parts"])
    return quantized


def built(structure: Mapping[str, Any], *, profile: Profile) -> Quantized:
    """The detector that ``structure_of`` describes, in eval mode, its quantizers off and without ranges."""
    plan = Plan.from_json(structure["plan"])
    detector = build_detector(profile.model, rig=profile.data.rig)
    apply_folding(detector, [(conv, norm) for conv, norm in structure["pairs"]])
    _insert(detector, plan=plan, section=profile.quantization)
    folding = Folding(pairs=tuple(tuple(pair) for pair in structure["pairs"]), unfolded=structure["kept"])
    return Quantized(detector.eval(), folding, plan)


def float_cost(detector: Detector, *, profile: Profile, split: Split) -> dict[str, Any]:
    """Nominal size and bit operations (Eq. 7 at 32 x 32) of the float detector, before batch norms are folded."""
    plan = make_plan(detector, parts=detector.parts(), weight_bits=32, activation_bits=32)
    macs = layer_macs(detector, profile=profile, split=split)
    return _cost(plan, detector, macs=macs, parts=(), size=nominal_size_mb(detector))


def quantized_cost(quantized: Quantized, *, profile: Profile, split: Split, trainable: int) -> dict[str, Any]:
    """Nominal size and bit operations with the parts that are on; others count at 32 x 32.

    Args:
        quantized: The detector.
        profile: Its model section, and the weight bits that the nominal size counts for every parameter; with a bit
            plan the weights of its layers count at their own, and the mean bits are told.
        split: One frame of it is run.
        trainable: Trainable parameters of the float detector before folding, which the paper's rule counts.
    """
    detector, plan, complete = quantized.detector, quantized.plan, quantized.complete
    bits = profile.quantization.weight_bits if complete else FLOAT_BITS
    size = trainable * bits / 8 / 2**20
    macs = layer_macs(detector, profile=profile, split=split)
    mixed: dict[str, Any] = {}
    if profile.quantization.plan is not None:
        weights = weights_by_site(detector, plan)
        if complete:
            size = mixed_size_mb(plan, weights=weights, trainable=trainable, bits=bits)
        mixed = {"mean_bits": mean_bits(plan, weights=weights, macs=macs)._asdict()}
    return _cost(plan, detector, macs=macs, parts=quantized.parts, size=size) | mixed


def layer_macs(detector: Detector, *, profile: Profile, split: Split) -> list[MacLine]:
    """Multiply-accumulates of one frame without history, by hooks."""
    return count_macs(detector, Example(detector, profile=profile, split=split, frames=1))


def _cost(
    plan: Plan, detector: Detector, *, macs: Sequence[MacLine], parts: Sequence[str], size: float
) -> dict[str, Any]:
    operations = bops(plan, macs, active_parts=parts)
    unseen = not_counted(macs)
    return {
        "size_nominal_mb": size,
        "gbops": {part: value / 1e9 for part, value in operations.parts.items()} | {"total": operations.total / 1e9},
        "gmacs": sum(line.macs for line in macs if line.is_layer) / 1e9,
        "pointwise_share_of_macs": pointwise_share(detector, macs),
        **({"not_counted": unseen} if unseen else {}),
    }


def _insert(detector: Detector, *, plan: Plan, section: QuantizationProfile) -> None:
    quantize(
        detector,
        plan,
        weights=WeightGrid(
            scale_rule=section.scale_rule,
            observer=section.weight_observer,
            percentile=section.percentile,
            granularity=section.weight_granularity,
            follow=section.weight_range == "follow",
        ),
        inputs=InputGrid(
            scale_rule=section.scale_rule,
            # PACT clips to -alpha and alpha: by HAWQ's rule alpha is the largest integer, one below -alpha is left out
            narrow_range=section.activation_range == "pact" and section.scale_rule == "hawq",
            observer=section.activation_observer,
            percentile=section.percentile,
            ema_momentum=section.moving_momentum if section.activation_range == "moving" else None,
            may_be_unsigned=section.activation_sign == "auto",
            has_offset=section.activation_offset == "learned",
        ),
    )
