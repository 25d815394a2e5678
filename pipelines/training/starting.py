"""How a stage begins: the detector of the one before it, with ranges and weights of the parts it adds chosen anew."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from pipelines.assembly.example import Example
from pipelines.assembly.job import Job
from pipelines.assembly.quantized import Quantized, learn_ranges_of, load_quantized
from pipelines.calibration.kept_rounds import KeptRounds
from pipelines.calibration.observing import observe, run_samples
from pipelines.calibration.part_run import PartRun
from pipelines.calibration.rounding import compare_rounded, compensate
from pipelines.lineage.kinds import QAT
from pipelines.store.artifacts import Artifact
from profiles.sections.schedule import PARTS
from qdbev.quantization import CheckedRun, Keeper, LiveNorms, thaw_norms


def started(
    parent: Artifact, *, job: Job, parts: Sequence[str], added: Sequence[str], key: str
) -> tuple[Quantized, str]:
    """The detector of the stage before with some parts on, and by how much outputs differ if it was rounded anew.

    Args:
        parent: The stage before, or the calibration.
        job: Its section ``quantization`` says what is chosen anew; its calibration samples choose.
        parts: On in this stage.
        added: Those of them that were off in the stage before.
        key: Of the stage; rounding that was stopped goes on.
    """
    section = job.profile.quantization
    quantized = load_quantized(parent, profile=job.profile, latent=True)
    quantized.switch_on([part for part in parts if part not in added])
    if observer := section.training_observer:
        observe(quantized, job=job, parts=added, observer=observer, unsigned=section.training_sign == "auto")
    said = ""
    if section.training_rounding == "compensated":
        said = _rounded_anew(quantized, job=job, parts=added, keeper=KeptRounds(job, QAT, key=key))
    quantized.switch_on(parts)
    learn_ranges_of(quantized, section=section)
    return quantized, said


def live_norms(quantized: Quantized, *, job: Job, added: Sequence[str]) -> LiveNorms:
    """Batch norms where calibration folded some, in the parts that train; measured on the calibration samples.

    Args:
        quantized: As the stage begins.
        job: Its schedule says whether other parts train too.
        added: The parts that the stage adds.
    """
    detector = quantized.detector
    parts = added if job.profile.qat.of_stage(added).other_multiplier == 0 else PARTS
    owners = [path for part in parts for path in detector.parts()[part]]
    folded = [conv for conv, _ in quantized.folding.pairs if any(f"{conv}.".startswith(f"{path}.") for path in owners)]
    return thaw_norms(detector, folded, partial(run_samples, detector, job=job))


def _rounded_anew(quantized: Quantized, *, job: Job, parts: Sequence[str], keeper: Keeper) -> str:
    """Round the weights of some parts, others as they are switched; by how much outputs differ, quantizers off."""
    detector, running = quantized.detector, quantized.parts
    example = CheckedRun(detector, Example(detector, profile=job.profile, split=job.split("train")))
    quantized.switch_on(())
    example()
    quantized.switch_on(running)
    compensate(detector, run=PartRun(detector, job=job, parts=parts), parts=parts, keeper=keeper)
    quantized.switch_on(())
    compare_rounded(example)
    return example.sentence()
