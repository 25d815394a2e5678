"""Measured latency of the float detector, part by part, on the device at hand; no data, no weights."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from pipelines.assembly.detector import build_detector, device_of, only_bevformer
from pipelines.assembly.scene import scene_of
from profiles import Profile
from profiles.sections.schedule import PARTS
from qdbev.detectors.bevformer.counting import one_frame
from qdbev.reporting.tables.counts import latency_table
from qdbev.reporting.tables.table import Table

_RUNS = 10
_FEWEST_RUNS = 3
_LONG_ENOUGH_S = 30.0


def measured(profile: Profile, *, progress: bool = False) -> Table:
    """Time inference of one frame with a history.

    Images are noise and weights fresh: neither changes how long a float network takes. After one frame to warm up, ten
    are timed; fewer, but at least three, where that takes longer than half a minute.

    Args:
        profile: Its model, data and device sections.
        progress: Show a bar.
    """
    device = device_of(profile)
    frame = _frame(profile, device=device)
    frame()
    seconds: list[dict[str, float]] = []
    start = time.perf_counter()
    for _ in tqdm(range(_RUNS), desc="latency", unit="frame", disable=not progress):
        seconds.append(frame())
        if len(seconds) >= _FEWEST_RUNS and time.perf_counter() - start > _LONG_ENOUGH_S:
            break
    totals = {name: [each[name] for each in seconds] for name in seconds[0]}
    whole = statistics.median(totals["total"])
    rows = [
        {
            "part": name,
            "median_s": statistics.median(times),
            "low_s": min(times),
            "high_s": max(times),
            "share": statistics.median(times) / whole,
        }
        for name, times in totals.items()
    ]
    return latency_table(rows, device=device_name(device), frames=len(seconds))


def _frame(profile: Profile, *, device: torch.device) -> Callable[[], dict[str, float]]:
    """What runs one frame and says how many seconds each part took."""
    torch.manual_seed(profile.seed)
    detector = only_bevformer(build_detector(profile.model), what="the latency of each part")
    detector.eval().to(device)
    scene = scene_of(profile)
    images, frames, history = one_frame(detector, scene, device=device)
    images.normal_()
    history.bev_BQC.normal_()
    steps: dict[str, Callable[[Any], Any]] = {
        "backbone": detector.backbone_features,
        "neck": lambda maps: detector.neck_features(maps, cameras=images.shape[1]),
        "encoder": lambda levels: detector.encode(levels, frames=frames, history=history).bev_BQC,
        "decoder": lambda bev: detector.boxes(detector.decode(bev)),
    }

    def run() -> dict[str, float]:
        value: Any = images
        times = [_now(device)]
        with torch.inference_mode():
            for part in PARTS:
                value = steps[part](value)
                times.append(_now(device))
        taken = {part: after - before for part, before, after in zip(PARTS, times, times[1:], strict=False)}
        return taken | {"total": times[-1] - times[0]}

    return run


def device_name(device: torch.device) -> str:
    """What a device is called: a GPU's name, or the processor's with the number of threads.

    Args:
        device: CPU or CUDA.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.get_num_threads()} of {os.cpu_count()} threads"


def _processor() -> str:
    names = Path("/proc/cpuinfo")
    if names.is_file():
        for line in names.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
