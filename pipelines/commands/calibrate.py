"""calibrate: ranges from ordered samples of the train split; evaluation samples are refused."""

from __future__ import annotations

from typing import Any

from pipelines.calibration.calibrated import calibrated
from pipelines.reporting.outcome import dry, finished
from pipelines.store.artifacts import Store
from profiles import Profile


def run(
    profile: Profile,
    *,
    store: Store,
    method: str | None = None,
    force: bool = False,
    dry_run: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Calibrate the float detector and seal the quantized one.

    Args:
        profile: What is wanted.
        store: Where the artifact goes.
        method: ``ptq``, ``dfq``, ``gptq``, ``adaround``, ``brecq`` or ``qdrop``, in place of the profile's.
        force: Calibrate again even if it is sealed.
        dry_run: Say what would be done.
        progress: Show bars.

    Raises:
        ValueError: A float profile, or calibration samples that the evaluation uses.
    """
    if method is not None and method != profile.calibration.method:
        profile = profile.model_copy(update={"calibration": profile.calibration.model_copy(update={"method": method})})
    if dry_run:
        return dry(_steps(profile))
    artifact, message = calibrated(profile, store=store, force=force, progress=progress)
    return finished(artifact, metrics=dict(artifact.manifest.metrics), messages=[message])


def _steps(profile: Profile) -> list[str]:
    """What would be done, a sentence a step."""
    section, name = profile.calibration, profile.model.name
    ranges = f"calibrate {name} to {profile.quantization.label} on {section.samples} samples of the train split"
    first = []
    if section.smoothing is not None:
        first = [
            f"move scales of layer norm channels into the linear layers that read them (alpha {section.smoothing})"
        ]
    learned = f"learn the rounding of the weights, {section.iterations} steps for each"
    done = {
        "ptq": [],
        "gptq": ["round the weights so that each layer's output on these samples changes least"],
        "adaround": [f"{learned} layer, so that its output on these samples changes least"],
        "brecq": [f"{learned} block, and its activation ranges, so that its output on these samples changes least"],
        "qdrop": [
            f"{learned} block, and its activation ranges, so that its output on these samples changes least, half of "
            "the activations at random in float"
        ],
    }
    if section.method != "dfq":
        return [*first, ranges, *done[section.method]]
    how = {
        "none": "leave the biases as they are",
        "analytic": "correct the biases of the layers whose mean input a batch norm tells, without data",
        "empirical": f"correct the biases of all layers, running the {section.samples} samples once for each",
    }
    return [
        *first,
        f"fold the batch norms of {name}, equalise the ranges of consecutive layers, absorb large biases",
        ranges,
        how[section.bias_correction],
    ]
