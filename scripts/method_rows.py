"""The rows of docs/methods.md: what is run for each, and what the page calls it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import profiles
from profiles import Profile

SCORES = ("NDS", "mAP", "mATE", "mASE", "mAOE", "mAVE", "mAAE")
LEDGER = Path(__file__).parents[1] / "docs" / "methods.json"
LEDGER_OF_OTHERS = LEDGER.with_name("detectors.json")
NANO = "nano"
BITS = ("w8a8", "w4a6", "w4a4")
CALIBRATE, STAGES, DISTIL, CONTROL = "calibrate", "qat-progressive", "distill-vgd", "train-float"
FLOAT, NO_TEACHER = "float", "ours-longer"
OF_RECIPES, OF_DISTILLATION = "float-longer-recipes", "float-longer-distillation"
ALL_AT_ONCE = "qat.stages=1"
NO_STEPS = "qat.steps_per_stage=0"
NO_DISTILLATION = "distillation.schedule.steps=0"
BEFORE_TRAINING = "what training starts from"


@dataclass(frozen=True)
class Method:
    """A row of the page.

    Attributes:
        title: As the page calls it.
        source: Where it comes from.
        command: The command that ends it.
        recipes: Recipes over the profile.
        words: Overrides over them.
        mixed: Bits of its own for every layer, at the size and bit operations of the uniform profile.
        group: Table of the page it belongs to.
        control: Row of the float detector that was trained as long at the same rates.
    """

    title: str
    source: str
    command: str
    recipes: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    mixed: bool = False
    group: str = "methods"
    control: str = "float-longer"

    @property
    def compressed(self) -> bool:
        """Whether bits make a difference to it."""
        return self.command != FLOAT and not self.command.startswith(CONTROL)

    def profile(self, bits: str, *, seed: int, plan: str | None = None, model: str = NANO) -> Profile:
        """The profile of one run; the seed draws what training sees, or where nothing trains calibration samples."""
        words = self._words(seed, plan=plan)
        return profiles.load(bits, model=model, recipes=self.recipes, overrides=words, seed=self._seed(seed))

    def shell(self, bits: str) -> str:
        """The command of seed 0."""
        options = [*(f"--recipe {one}" for one in self.recipes), *(f"--set {word}" for word in self.words)]
        options += ["--set quantization.plan=PLAN"] if self.mixed else []
        return " ".join(["qdbev", self.command, "--profile", bits, *options])

    def _words(self, seed: int, *, plan: str | None) -> list[str]:
        own = [f"calibration.seed={seed}"] if self.draws_samples else []
        return [*self.words, *own, *([f"quantization.plan={plan}"] if plan else [])]

    def _seed(self, seed: int) -> int | None:
        return None if self.draws_samples or self.command == FLOAT else seed

    @property
    def draws_samples(self) -> bool:
        """Whether its seed draws calibration samples."""
        return self.command == CALIBRATE or self.group == BEFORE_TRAINING


PER_TENSOR = "quantization.weight_granularity=tensor"
MSE = ("quantization.weight_observer=mse", "quantization.activation_observer=mse")
UNSIGNED = "quantization.activation_sign=auto"

METHODS: dict[str, Method] = {
    FLOAT: Method("float", "", FLOAT),
    "float-longer": Method(
        "float, trained on in the stages of ours", "", "train-float --continue", words=(NO_DISTILLATION,)
    ),
    OF_RECIPES: Method(
        "float, trained on in the stages of the recipes", "", "train-float --continue", ("paper",), (NO_DISTILLATION,)
    ),
    OF_DISTILLATION: Method(
        "float, trained on in the stages of ours and as distillation", "", "train-float --continue"
    ),
    "min-max": Method("PTQ, min-max", "QD-BEV, Eq. 1", CALIBRATE),
    "mse": Method("PTQ, least squared error", "", CALIBRATE, words=(*MSE, UNSIGNED)),
    "smoothquant": Method("SmoothQuant", "Xiao et al., ICML 2023", CALIBRATE, words=("calibration.smoothing=0.5",)),
    "dfq": Method("DFQ", "Nagel et al., ICCV 2019", CALIBRATE, words=("calibration.method=dfq",)),
    "min-max-tensor": Method("PTQ, min-max, one range per weight tensor", "", CALIBRATE, words=(PER_TENSOR,)),
    "dfq-tensor": Method(
        "DFQ, one range per weight tensor",
        "Nagel et al., ICCV 2019",
        CALIBRATE,
        words=("calibration.method=dfq", PER_TENSOR),
    ),
    "gptq": Method(
        "GPTQ, ranges of least squared error",
        "Frantar et al., ICLR 2023",
        CALIBRATE,
        words=("calibration.method=gptq", *MSE, UNSIGNED),
    ),
    "adaround": Method(
        "AdaRound, ranges of least squared error",
        "Nagel et al., ICML 2020",
        CALIBRATE,
        words=("calibration.method=adaround", *MSE, UNSIGNED),
    ),
    "brecq": Method(
        "BRECQ, ranges of least squared error",
        "Li et al., ICLR 2021",
        CALIBRATE,
        words=("calibration.method=brecq", *MSE, UNSIGNED),
    ),
    "qdrop": Method(
        "QDrop, ranges of least squared error",
        "Wei et al., ICLR 2022",
        CALIBRATE,
        words=("calibration.method=qdrop", *MSE, UNSIGNED),
    ),
    "mixed": Method("PTQ, min-max, mixed bits", "HAWQ-V3's program, output error", CALIBRATE, mixed=True),
    "paper-standard": Method("QAT, all at once", "QD-BEV", STAGES, ("paper",), (ALL_AT_ONCE,), control=OF_RECIPES),
    "paper": Method("QAT, progressive", "QD-BEV, Algorithm 1", STAGES, ("paper",), control=OF_RECIPES),
    "hawq-v3": Method("HAWQ-V3, progressive", "Yao et al., ICML 2021", STAGES, ("hawq-v3",), control=OF_RECIPES),
    "pact": Method("PACT, progressive", "Choi et al., 2018", STAGES, ("pact",), control=OF_RECIPES),
    "lsq": Method("LSQ, progressive", "Esser et al., ICLR 2020", STAGES, ("lsq",), control=OF_RECIPES),
    "lsq-plus": Method("LSQ+, progressive", "Bhalgat et al., CVPRW 2020", STAGES, ("lsq-plus",), control=OF_RECIPES),
    "ours": Method("ours, progressive", "docs/qat-progressive.md", STAGES),
    "ours-vgd": Method("ours, progressive, then VGD", "QD-BEV, Algorithm 1", DISTIL, control=OF_DISTILLATION),
    "ours-vgd-additive": Method(
        "ours, then VGD, losses added instead of multiplied",
        "",
        DISTIL,
        words=("distillation.combine=additive",),
        control=OF_DISTILLATION,
    ),
    "ours-cwd-image": Method(
        "ours, then CWD on image features", "Shu et al., ICCV 2021", DISTIL, ("cwd-image",), control=OF_DISTILLATION
    ),
    "ours-cwd-bev": Method(
        "ours, then CWD on BEV features", "Shu et al., ICCV 2021", DISTIL, ("cwd-bev",), control=OF_DISTILLATION
    ),
    "ours-fitnet": Method("ours, then hints", "Romero et al., ICLR 2015", DISTIL, ("fitnet",), control=OF_DISTILLATION),
    "ours-outputs": Method(
        "ours, then class scores and boxes", "Hinton et al., 2015", DISTIL, ("outputs",), control=OF_DISTILLATION
    ),
    NO_TEACHER: Method("ours, progressive, then no teacher", "", "distill-vgd --control", control=OF_DISTILLATION),
    "ours-mixed": Method("ours, progressive, mixed bits", "", STAGES, mixed=True),
    "start": Method("all of it", "", STAGES, words=(NO_STEPS,), group=BEFORE_TRAINING),
    "start-minmax": Method(
        "min-max ranges instead of least squared error",
        "",
        STAGES,
        words=(NO_STEPS, "quantization.training_observer=minmax"),
        group=BEFORE_TRAINING,
    ),
    "start-nearest": Method(
        "nearest rounding instead of compensated",
        "",
        STAGES,
        words=(NO_STEPS, "quantization.training_rounding=nearest"),
        group=BEFORE_TRAINING,
    ),
    "start-signed": Method(
        "signed activations everywhere",
        "",
        STAGES,
        words=(NO_STEPS, "quantization.training_sign=signed"),
        group=BEFORE_TRAINING,
    ),
    "start-at-once": Method(
        "all parts at once instead of four stages", "", STAGES, words=(NO_STEPS, ALL_AT_ONCE), group=BEFORE_TRAINING
    ),
    "start-eight": Method(
        "first and last layers at 8 bits",
        "",
        STAGES,
        words=(NO_STEPS, "quantization.first_last_bits=8"),
        group=BEFORE_TRAINING,
    ),
    "start-mixed": Method("mixed bits", "", STAGES, words=(NO_STEPS,), mixed=True, group=BEFORE_TRAINING),
}
