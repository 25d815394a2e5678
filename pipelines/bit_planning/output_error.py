"""What each layer's bits alone change in the boxes: the loss of a bit plan by outputs.

One layer's weights, or its inputs, are quantized, all else is float, also the history. What comes before the layer's
part is the float network's and computed once a frame; what comes after runs again for every choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pipelines.assembly.detector import device_of, only_bevformer
from pipelines.assembly.quantized import Quantized
from pipelines.assembly.samples import Split, ordered_dataset
from pipelines.bit_planning.candidates import Choice, Losses, Tensors, choices_of, spread
from pipelines.store.integrity import fetched
from profiles import Profile
from profiles.sections.schedule import PARTS
from qdbev.data.nuscenes.records import Sample
from qdbev.data.queues.batches import streaming_batches
from qdbev.detectors.bevformer import BEVFormer
from qdbev.detectors.bevformer.frames.batches import current_frames
from qdbev.detectors.bevformer.frames.history import StreamingHistory
from qdbev.evaluation.output_distance import output_distance
from qdbev.quantization import set_sites

Decoded = tuple[Tensor, Tensor]


class FloatFrame:
    """One frame through the float network: what each part is given, and what comes out.

    Args:
        detector: Its quantizers are off.
        images: Normalised images (1, N, 3, H, W).
        frames: Their description.
        history: Of the float network's frames before.
    """

    def __init__(self, detector: BEVFormer, *, images: Tensor, frames: Any, history: Any) -> None:
        self.frames, self.history, self.cameras = frames, history, images.shape[1]
        self.given: dict[str, Any] = {"backbone": images}
        for part, after in pairwise(PARTS):
            self.given[after] = self._through(detector, part, self.given[part])
        self.decoded: Decoded = self._through(detector, "decoder", self.given["decoder"])

    def moved(self, detector: BEVFormer, *, part: str) -> float:
        """How far the outputs move when ``detector`` takes over from a part on."""
        value = self.given[part]
        for each in PARTS[PARTS.index(part) :]:
            value = self._through(detector, each, value)
        logits, code = self.decoded
        return float(output_distance(*value, reference_logits_BKC=logits, reference_code_BK10=code).sum())

    def _through(self, detector: BEVFormer, part: str, value: Any) -> Any:
        if part == "backbone":
            return detector.backbone_features(value)
        if part == "neck":
            return detector.neck_features(value, cameras=self.cameras)
        if part == "encoder":
            return detector.encode(value, frames=self.frames, history=self.history).bev_BQC
        decoded = detector.decode(value)
        return decoded.logits_LBKC[-1], decoded.code_LBK10[-1]


def output_losses(
    candidates: Mapping[int, Quantized],
    *,
    profile: Profile,
    split: Split,
    samples: Sequence[Sample],
    tensors: Sequence[Tensors],
    progress: bool = False,
) -> Losses:
    """The mean distance of outputs per frame for every layer, tensor and number of bits.

    Args:
        candidates: Bits -> the detector with all layers at these bits, calibrated, everything off.
        profile: Its ``bit_plan.samples`` are compared, spread over ``samples``; the others only make the history.
        split: Where the samples are from.
        samples: Calibration samples, in scene order.
        tensors: ``weights``, ``inputs`` or both.
        progress: Show a bar.
    """
    places = spread(profile.bit_plan.samples, over=len(samples))
    losses: Losses = {}
    first = only_bevformer(next(iter(candidates.values())).detector, what="the error of outputs")
    with torch.inference_mode():
        for number, frame in enumerate(_float_frames(first, profile=profile, split=split, samples=samples)):
            if number not in places:
                continue
            choices = [(bits, one, kind) for bits, one in candidates.items() for kind in tensors]
            label = f"output error, sample {number + 1} of {len(samples)}"
            for bits, quantized, kind in tqdm(choices, desc=label, unit="choice", disable=not progress):
                for choice, moved in _moved(quantized.detector, frame=frame, tensors=kind, bits=bits):
                    losses[choice] = losses.get(choice, 0.0) + moved / len(places)
            set_sites(first, ())
    return losses


def _moved(detector: BEVFormer, *, frame: FloatFrame, tensors: Tensors, bits: int) -> Iterator[tuple[Choice, float]]:
    """The distance for every layer that has such tensors."""
    for choice, part in choices_of(detector, tensors=tensors, bits=bits):
        set_sites(detector, [choice.path], tensors=tensors)
        yield choice, frame.moved(detector, part=part)
    set_sites(detector, ())


def _float_frames(
    detector: BEVFormer, *, profile: Profile, split: Split, samples: Sequence[Sample]
) -> Iterator[FloatFrame]:
    """Every sample through the float network, in scene order, with its history."""
    device, history = device_of(profile), StreamingHistory()
    dataset = ordered_dataset(split, model=profile.model, samples=samples)
    for batch in fetched(streaming_batches(dataset, streams=1, workers=0)):
        images = batch["inputs"]["img"][:, -1].to(device)
        frames = current_frames(batch["data_samples"], device=device)
        set_sites(detector, ())
        frame = FloatFrame(detector, images=images, frames=frames, history=history.lookup(frames))
        history.store(frame.given["decoder"], frames=frames)
        yield frame
