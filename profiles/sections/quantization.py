"""The quantizer: bits, scale rule and observers (QD-BEV, Zhang et al., ICCV 2023, Eq. 1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from profiles.document import Document

Bits = Literal[2, 3, 4, 5, 6, 7, 8, 32]
Observer = Literal["minmax", "moving_average", "percentile", "mse", "entropy"]
WeightObserver = Literal["minmax", "moving_average", "percentile", "mse"]  # entropy works per tensor only


class QuantizationProfile(Document):
    """How weights and activations (one range per tensor) become integers."""

    later: ClassVar[frozenset[str]] = frozenset(
        {"moving_momentum", "learned_scale", "activation_offset", "pact_penalty", "weight_granularity", "float_layers"}
    )

    read_where: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]] = {
        "pact_penalty": ("activation_range", ("pact",)),
        "moving_momentum": ("activation_range", ("moving",)),
    }

    weight_bits: Bits = 4
    """Bits of weights; 32 leaves them in float."""
    activation_bits: Bits = 6
    """Bits of activations; 32 leaves them in float."""
    plan: str | None = None
    """A bit plan (folder name, start of a digest, kind:name): each layer has its bits; null: all have the same."""
    scale_rule: Literal["qdbev", "hawq"] = "qdbev"
    """Step from the largest magnitude r over k bits: qdbev 2r/(2^k-1) (the paper's Eq. 1), hawq r/(2^(k-1)-1)."""
    weight_granularity: Literal["channel", "tensor"] = "channel"
    """One range per output channel of a weight (the paper), or one for the tensor, which dfq was made for."""
    weight_observer: WeightObserver = "minmax"
    """How the range of a weight is chosen; ranges that follow are minmax ones."""
    activation_observer: Observer = "minmax"
    """How the range of an activation is chosen from the calibration samples."""
    percentile: float = Field(default=99.9, gt=50, le=100)
    """Share of magnitudes inside the range, in percent, for the percentile observer."""
    activation_sign: Literal["signed", "auto"] = "signed"
    """Integers of activations: signed everywhere (Eq. 1); auto: unsigned where calibration sees nothing negative."""
    embedding: Literal["weight", "float"] = "weight"
    """Embedding tables: quantized like weights, or left in float."""
    first_positions: Literal["float", "quantized"] = "float"
    """First positions of the object queries, constants of the network: their table and layer in float, or as others."""
    float_layers: tuple[str, ...] = ()
    """Layers that stay in float, weights and inputs: paths, or patterns of them with * and ?."""
    first_last_bits: Bits | None = None
    """Bits of the first layer and of the last layers for class and box; null treats them as the others (the paper)."""
    training_observer: WeightObserver | None = "mse"
    """How the ranges are chosen that training starts from, part by part as it is quantized; null: as calibrated."""
    training_sign: Literal["signed", "auto"] = "auto"
    """The same as activation_sign for training, wherever training_observer chooses the ranges anew."""
    training_rounding: Literal["nearest", "compensated"] = "compensated"
    """How the weights of a part start its stage: nearest, as they are, each used at its nearest step; compensated, put
    on their grid one after the other, so that each layer's output changes least (GPTQ)."""
    weight_range: Literal["follow", "frozen", "learned"] = "frozen"
    """In training, weight ranges follow the weights at every step (minmax only), stay, or are learned (LSQ)."""
    activation_range: Literal["frozen", "moving", "learned", "pact"] = "learned"
    """In training, activation ranges stay as they are, follow a moving average, are learned (LSQ), or are learned as
    clipping levels (PACT)."""
    moving_momentum: float = Field(default=0.99, ge=0, lt=1)
    """Share of the old range that a moving activation range keeps at each step."""
    learned_scale: Literal["log", "linear"] = "log"
    """What a learned range trains: the logarithm of its step (TQT), or the step itself (LSQ as printed)."""
    activation_offset: Literal["none", "learned"] = "none"
    """Activation grids symmetric about zero, or with an offset that is calibrated and learned with the range (LSQ+)."""
    pact_penalty: float = Field(default=1e-4, ge=0)
    """With activation_range pact: factor on the sum of squared clipping levels that the loss gets."""

    @property
    def is_float(self) -> bool:
        """Whether nothing is quantized."""
        return self.weight_bits == 32 and self.activation_bits == 32

    @property
    def learns_activations(self) -> bool:
        """Whether training learns the ranges of activations, in one form or another."""
        return self.activation_range in ("learned", "pact")

    @property
    def label(self) -> str:
        """Bits as tables write them, such as ``W4A6``; a plan by the start of its name."""
        if self.plan is not None:
            return f"mixed bits of plan {self.plan[:12]}"
        return f"W{self.weight_bits}A{self.activation_bits}"

    @model_validator(mode="after")
    def _float_keeps_all(self) -> QuantizationProfile:
        if self.is_float and self.first_last_bits not in (None, 32):
            raise ValueError("first_last_bits must be null or 32 where weight_bits and activation_bits are 32")
        return self

    @model_validator(mode="after")
    def _a_plan_decides_alone(self) -> QuantizationProfile:
        if self.plan is not None and self.first_last_bits is not None:
            raise ValueError("first_last_bits must be null where plan gives each layer its bits")
        if self.plan is not None and self.is_float:
            raise ValueError("plan must be null where weight_bits and activation_bits are 32")
        return self

    @model_validator(mode="after")
    def _only_minmax_follows(self) -> QuantizationProfile:
        if self.weight_range == "follow" and self.weight_observer != "minmax":
            raise ValueError(
                f"weight_range must be frozen or learned where weight_observer is {self.weight_observer}; only minmax "
                "ranges follow the weights"
            )
        return self

    @model_validator(mode="after")
    def _an_offset_is_learned_with_its_range(self) -> QuantizationProfile:
        if self.activation_offset == "none":
            return self
        if self.activation_range != "learned":
            raise ValueError(f"activation_offset must be none where activation_range is {self.activation_range}")
        for name in ("activation_observer", "training_observer"):
            if getattr(self, name) not in ("minmax", "mse", None):
                raise ValueError(f"{name} must be minmax or mse where activation_offset is learned")
        return self

    @model_validator(mode="after")
    def _only_a_learned_range_has_a_form(self) -> QuantizationProfile:
        if self.learned_scale != "log" and "learned" not in (self.weight_range, self.activation_range):
            raise ValueError("learned_scale must be log where neither weight_range nor activation_range is learned")
        return self

    @model_validator(mode="after")
    def _rounded_weights_do_not_lead(self) -> QuantizationProfile:
        if self.weight_range == "follow" and self.training_rounding == "compensated":
            raise ValueError(
                "training_rounding must be nearest where weight_range is follow; a range that follows would move under "
                "weights rounded for it"
            )
        return self
