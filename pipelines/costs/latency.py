"""Measured latency of the float detector, part by part, on the device at hand; no data, no weights."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm

from pipelines.assembly.detector import build_detector, device_of, refuse_unable
from pipelines.assembly.scene import scene_of
from profiles import Profile
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

    Raises:
        ValueError: The detector cannot run part by part.
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
    totals = {name: [frame_seconds[name] for frame_seconds in seconds] for name in seconds[0]}
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
    detector = build_detector(profile.model, rig=profile.data.rig)
    refuse_unable(detector, ability="stages")
    stages = detector.eval().to(device).noise_stages(scene_of(profile), device=device)
    steps = stages.streamed()

    def run() -> dict[str, float]:
        value = stages.first
        times = [_now(device)]
        with torch.inference_mode():
            for step in steps.values():
                value = step(value)
                times.append(_now(device))
        taken = {part: after - before for part, before, after in zip(steps, times, times[1:], strict=False)}
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
