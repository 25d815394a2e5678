"""Measures what distillation costs: a step with the teacher live, and with what it gave read from disk.

    python scripts/bench_distillation.py [--model nano] [--image 176 96] [--batch 4] [--repeats 10] [--threads 1]

A step is forward and backward of the quantized detector on one batch, without the optimiser, whose time would hide some
of the difference. All forms run in turn inside each repeat, so that a change of the machine's load meets all of them.
On a CPU it is process time, elsewhere wall time with synchronisation. The first table has the best and the median time
of each form, the second the ratios of the best times and the median of the ratios within each repeat. Scenes are
synthetic, calibration is on a few samples, and nothing is left behind but scenes in the cache.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tabulate import tabulate

import profiles
from pipelines.assembly.detector import device_of
from pipelines.assembly.job import Job
from pipelines.assembly.quantized import learn_ranges_of, load_quantized
from pipelines.assembly.samples import training_dataset
from pipelines.assembly.weights import float_detector
from pipelines.calibration.calibrated import calibrated
from pipelines.store.artifacts import Store
from pipelines.training.distillation import distillation_loss
from pipelines.training.objectives import objectives
from pipelines.training.run import Loss, NumberedBatches, detection_loss, on_device
from pipelines.training.teacher import Teacher, teacher_of
from profiles import Profile
from profiles.sections.schedule import PARTS

STEADY = (  # so that the teacher can be kept, and the weight does not change
    *("distillation.schedule.photometric=false", "distillation.schedule.grid_mask_probability=0"),
    *("data.drop_one_frame=false", "distillation.weight=1e4", "distillation.auto_steps=1"),
)
QAT, TEACHER, LIVE, KEPT = "QAT step", "teacher forward", "step, teacher live", "step, teacher kept"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano", help="nano, tiny, small or base; weights but nano's are random")
    parser.add_argument("--image", nargs=2, default=None, metavar=("WIDTH", "HEIGHT"), help="of the cameras [px]")
    parser.add_argument("--objectives", nargs="+", default=["vgd"])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    words = [*STEADY, "data.train_scenes=2", "data.val_scenes=1", "calibration.samples=2"]
    words += [f"distillation.objectives=[{','.join(chosen.objectives)}]"]
    words += [] if chosen.model == "nano" else ["model.weights=random"]
    words += [f"data.image_size_px=[{','.join(chosen.image)}]"] if chosen.image else []
    profile = profiles.load("w4a6", model=chosen.model, overrides=words, device=chosen.device)
    with tempfile.TemporaryDirectory() as folder:
        forms = prepared(profile, folder=Path(folder), batch_size=chosen.batch)
        seconds = interleaved(forms, repeats=chosen.repeats, device=device_of(profile))
    print(f"{chosen.model}, batch {chosen.batch}, {', '.join(chosen.objectives)}, torch {torch.__version__}, ", end="")
    print(f"{chosen.device}, {chosen.threads} thread(s), {chosen.repeats} repeats")
    rows = [[name, 1e3 * min(times), 1e3 * median(times)] for name, times in seconds.items()]
    print(tabulate(rows, headers=["form", "best ms", "median ms"], floatfmt=".1f"))
    print(tabulate(ratios(seconds), headers=["ratio", "of best", "median"], floatfmt=".3f"))


def prepared(profile: Profile, *, folder: Path, batch_size: int) -> dict[str, Callable[[], object]]:
    """The forms by name, on one batch; what the teacher gives for it is on disk already."""
    job = Job(profile, Store(folder / "runs"))
    device, split = job.device, job.split("train")
    parent, _ = calibrated(job)
    quantized = load_quantized(parent, profile=profile, latent=True)
    quantized.switch_on(PARTS)
    learn_ranges_of(quantized, section=profile.quantization)
    student = quantized.detector
    student.train().to(device)
    dataset = training_dataset(split, model=profile.model, data=profile.data, schedule=profile.distillation.schedule)
    batch = next(NumberedBatches(dataset, batch_size=batch_size, seed=0, workers=0)(0, stride=1))
    detector, source = float_detector(job)
    losses: dict[str, Loss] = {QAT: detection_loss(student, job=job)}
    ready = on_device(batch, device=device)
    teachers: dict[str, Teacher] = {}
    for name, cache in {LIVE: "never", KEPT: "always"}.items():
        data = profile.data.model_copy(update={"cache": str(folder)})
        section = profile.distillation.model_copy(update={"cache_teacher": cache})
        own = profile.model_copy(update={"data": data, "distillation": section})
        teachers[name], _ = teacher_of(own, detector=detector, digest=source.digest, split=split, device=device)
        teachers[name](ready["inputs"], ready["data_samples"])
        losses[name] = distillation_loss(student, teacher=teachers[name], wanted=objectives(own), job=job.of(own))

    def step(loss: Loss) -> Callable[[], object]:
        def run() -> None:
            loss(batch, 0)[0].backward()
            student.zero_grad()

        return run

    def teach() -> object:
        return teachers[LIVE](ready["inputs"], ready["data_samples"])

    return {QAT: step(losses[QAT]), TEACHER: teach, LIVE: step(losses[LIVE]), KEPT: step(losses[KEPT])}


def interleaved(
    forms: Mapping[str, Callable[[], object]], *, repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of every repeat; the first round warms up and does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for repeat in range(repeats + 1):
        for name, run in forms.items():
            taken = measured(run, device=device)
            if repeat:
                seconds[name].append(taken)
    return seconds


def measured(run: Callable[[], object], *, device: torch.device) -> float:
    """Seconds of one call."""
    if device.type == "cpu":
        start = time.process_time()
        run()
        return time.process_time() - start
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start


def ratios(seconds: Mapping[str, list[float]]) -> list[list[Any]]:
    """Distilled steps over what they should cost."""
    whole = [qat + teacher for qat, teacher in zip(seconds[QAT], seconds[TEACHER], strict=True)]
    sums = {
        f"{LIVE} / ({QAT} + {TEACHER})": (seconds[LIVE], whole, min(seconds[QAT]) + min(seconds[TEACHER])),
        f"{KEPT} / {QAT}": (seconds[KEPT], seconds[QAT], min(seconds[QAT])),
    }
    return [
        [name, min(above) / best, median(one / other for one, other in zip(above, below, strict=True))]
        for name, (above, below, best) in sums.items()
    ]


if __name__ == "__main__":
    main()
