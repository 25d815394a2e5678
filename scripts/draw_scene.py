"""Draw the README's picture: six cameras and the view from above with ground truth, float and quantized boxes.

python scripts/draw_scene.py --store runs --scene scene-0003 --frame 5 --out docs/images/scene.jpg
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

import profiles
from pipelines.assembly.detector import Detector
from pipelines.assembly.job import Job
from pipelines.assembly.quantized import load_quantized
from pipelines.assembly.samples import Split, streaming_dataset
from pipelines.assembly.weights import float_detector
from pipelines.store.artifacts import Store
from profiles import Profile
from qdbev.data.geometry import lidar_to_image
from qdbev.data.queues.batches import streaming_batches
from qdbev.data.queues.temporal import valid_boxes
from qdbev.reporting.charts.figure import BLUE, GREEN, ORANGE
from qdbev.reporting.drawings.scene import BoxSource, encode_image, scene_image


def main() -> None:
    """Parse the command line, predict one scene with both detectors, draw one frame."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", default="runs")
    parser.add_argument("--profile", default="w4a6")
    parser.add_argument("--scene", default=None, help="name of a val scene; the first one if left out")
    parser.add_argument("--frame", type=int, default=5)
    parser.add_argument("--min-score", type=float, default=0.3)
    parser.add_argument("--out", type=Path, default=Path("docs/images/scene.jpg"))
    options = parser.parse_args()
    profile, store = profiles.load(options.profile), Store(options.store)
    job = Job(profile, store)
    split = job.evaluation_split()
    samples = [one for one in split.samples if one["scene"] == (options.scene or split.scenes[0])]
    scene = Split(split.root, split.version, samples, "")
    artifact = store.last("vgd", profile=profile.name) or store.last("qat", profile=profile.name)
    if artifact is None:
        raise SystemExit(f"{store.root} holds no trained {profile.name}: run `qdbev compress --profile {profile.name}`")
    sample = samples[options.frame]
    boxes, labels = valid_boxes(sample)
    sources = [
        BoxSource("ground truth", boxes.tensor.numpy(), labels, colour=GREEN),
        boxes_of(float_detector(job)[0], scene, profile, options.frame, "float", BLUE),
        boxes_of(
            load_quantized(artifact, profile=profile).detector,
            scene,
            profile,
            options.frame,
            profile.quantization.label,
            ORANGE,
        ),
    ]
    cameras = list(sample["images"].values())
    images = [cv2.cvtColor(cv2.imread(str(split.root / one["img_path"])), cv2.COLOR_BGR2RGB) for one in cameras]
    lidar2img = lidar_to_image(
        np.stack([one["cam2img"] for one in cameras]), lidar2cam=np.stack([one["lidar2cam"] for one in cameras])
    )
    model: Any = profile.model
    picture = scene_image(
        images, lidar2img=lidar2img, sources=sources, min_score=options.min_score, range_m=model.bev.range_m[3]
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(encode_image(picture, form=options.out.suffix[1:]))
    print(options.out)


def boxes_of(detector: Detector, scene: Split, profile: Profile, frame: int, name: str, colour: str) -> BoxSource:
    """What a detector sees in one frame, the frames before it giving the history."""
    dataset = streaming_dataset(Split(scene.root, scene.version, scene.samples[: frame + 1], ""), model=profile.model)
    detector.eval().history.reset()
    with torch.inference_mode():
        for batch in streaming_batches(dataset, streams=1, workers=0):
            found = detector.detections(batch["inputs"], batch["data_samples"])[0][1]
    return BoxSource(
        name,
        found.bboxes_3d.tensor.numpy(),
        found.labels_3d.numpy(),
        scores=found.scores_3d.numpy(),
        colour=colour,
    )


if __name__ == "__main__":
    main()
