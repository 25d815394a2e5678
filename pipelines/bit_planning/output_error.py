"""What each layer's bits alone change in the boxes: the loss of a bit plan by outputs.

One layer's weights, or its inputs, are quantized, all else is float, also the history. What comes before the layer's
part is the float network's and computed once a frame; what comes after runs again for every choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from tqdm import tqdm

from pipelines.assembly.detector import Detector, inputs_on
from pipelines.assembly.job import Job
from pipelines.assembly.quantized import Quantized
from pipelines.assembly.samples import ordered_dataset
from pipelines.bit_planning.candidates import Choice, Losses, Tensors, choices_of, spread
from pipelines.store import processes
from pipelines.store.integrity import fetched
from qdbev.data.queues.batches import Batch, streaming_batches
from qdbev.detectors.detector import Stages
from qdbev.evaluation.output_distance import output_distance
from qdbev.quantization import set_sites


class FloatFrame:
    """One frame through the float network: what each part is given, and what comes out.

    Args:
        detector: Its quantizers are off.
        batch: The frame, its inputs on the detector's device.
        history: Of the float network's frames before.
    """

    def __init__(self, detector: Detector, *, batch: Batch, history: Any) -> None:
        self._batch, self._history = batch, history
        self._stages = self.stages(detector)
        self._given: dict[str, Any] = {}
        self._remembered: Any = None
        value = self._stages.first
        for part, step in self._stages.steps.items():
            self._given[part] = value
            value = step(value)
            if part == self._stages.memory_part:
                self._remembered = value
        self._outputs = self._stages.outputs(value)

    def stages(self, detector: Detector) -> Stages:
        """The frame on its way through a detector, with the float network's history."""
        return detector.stages(self._batch["inputs"], self._batch["data_samples"], history=self._history)

    def moved(self, stages: Stages, *, part: str) -> float:
        """How far the outputs move when ``stages`` take over from a part on."""
        value, parts = self._given[part], list(stages.steps)
        for after in parts[parts.index(part) :]:
            value = stages.steps[after](value)
        logits, code = self._outputs
        return float(
            output_distance(*stages.outputs(value), reference_logits_BKC=logits, reference_code_BK10=code).sum()
        )

    def remember(self) -> None:
        """Let the next frame see this one; what still looks at this frame's own history comes before."""
        self._stages.remember(self._remembered)


def output_losses(
    candidates: Mapping[int, Quantized],
    *,
    job: Job,
    tensors: Sequence[Tensors],
) -> Losses:
    """The mean distance of outputs per frame for every layer, tensor and number of bits.

    Args:
        candidates: Bits -> the detector with all layers at these bits, calibrated, everything off; of several
            processes each has some of them, or none, and gets the losses of all.
        job: Its ``bit_plan.samples`` are compared, spread over the calibration samples in scene order; the others only
            make the history.
        tensors: ``weights``, ``inputs`` or both.
    """
    losses = _measured(candidates, job=job, tensors=tensors) if candidates else {}
    known = {choice: loss for some in processes.gathered(losses) for choice, loss in some.items()}
    return {choice: known[choice] for choice in sorted(known, key=lambda of: (of.bits, tensors.index(of.tensors)))}


def _measured(candidates: Mapping[int, Quantized], *, job: Job, tensors: Sequence[Tensors]) -> Losses:
    """The losses of the candidates of this process; a choice is measured whole in one."""
    samples = job.calibration_samples()
    places = spread(job.profile.bit_plan.samples, over=len(samples))
    losses: Losses = {}
    first = next(iter(candidates.values())).detector
    with torch.inference_mode():
        for number, frame in enumerate(_float_frames(first, job=job)):
            if number not in places:
                continue
            choices = [(bits, candidate, kind) for bits, candidate in candidates.items() for kind in tensors]
            label = f"output error, sample {number + 1} of {len(samples)}"
            for bits, quantized, kind in tqdm(choices, desc=label, unit="choice", disable=not job.progress):
                for choice, moved in _moved(quantized.detector, frame=frame, tensors=kind, bits=bits):
                    losses[choice] = losses.get(choice, 0.0) + moved / len(places)
            set_sites(first, ())
    return losses


def _moved(detector: Detector, *, frame: FloatFrame, tensors: Tensors, bits: int) -> Iterator[tuple[Choice, float]]:
    """The distance for every layer that has such tensors."""
    stages = frame.stages(detector)
    for choice, part in choices_of(detector, tensors=tensors, bits=bits):
        set_sites(detector, [choice.path], tensors=tensors)
        yield choice, frame.moved(stages, part=part)
    set_sites(detector, ())


def _float_frames(detector: Detector, *, job: Job) -> Iterator[FloatFrame]:
    """Every sample through the float network, in scene order, with its history."""
    device, history = job.device, detector.new_history(scenes=1)
    dataset = ordered_dataset(job.split("train"), model=job.profile.model, samples=job.calibration_samples())
    for batch in fetched(streaming_batches(dataset, streams=1, workers=0)):
        set_sites(detector, ())
        frame = FloatFrame(detector, batch=batch | {"inputs": inputs_on(batch, device=device)}, history=history)
        yield frame
        frame.remember()
