"""What every test may ask for: the reference material beside the clone, and one tiny synthetic data set."""

from __future__ import annotations

import functools
import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from filelock import FileLock

# Before torch and numpy start their thread pools: one thread a process, as many processes as pytest-xdist starts.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("MPLBACKEND", "Agg")

# Imports and models are many objects and little garbage: looked through rarely, or it takes a seventh of the time.
gc.set_threshold(50_000, 20, 100)

# Where torch sees no GPU, Triton's interpreter runs the GPU kernels, on the CPU. Triton asks when a kernel is imported.
import torch  # noqa: E402

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

ROOT = Path(__file__).resolve().parent.parent
TINY_VERSION = "v1.0-trainval"
TINY_TRAIN_SCENES = 3
TINY_VAL_SCENES = 2
MITE = """
model:
  detector: bevformer
  weights: random
  image: {scale: 1.0, pad_divisor: 16}
  backbone: {depth: 18, base_channels: 8, stages: 3, out_indices: [1, 2], dcn_stages: [false, false, false],
             frozen_stages: -1, norm_frozen: false}
  neck: {in_channels: [16, 32], outputs: 2}
  bev: {rows: 10, columns: 10, range_m: [-40.96, -40.96, -5, 40.96, 40.96, 3], rotation_centre_px: null,
        rotation_nearest: false}
  encoder: {layers: 1, spatial_points: 4}
  decoder: {layers: 2}
  head: {queries: 30, query_init: grid}
  channels: 16
  heads: 2
  hidden: 24
  dropout: 0.0
data: {queue_length: 2, drop_one_frame: false}
"""

# Loaded machines are slow machines, so no deadline. In continuous integration every run draws the same examples.
hypothesis.settings.register_profile("here", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "here")


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """A file of tests that cannot be imported is an error; among doctests pytest skips it without a word."""
    if "unable to import module" in str(report.longrepr) and Path(report.nodeid).name.startswith("test_"):
        raise pytest.UsageError(f"{report.nodeid} cannot be imported: {report.longrepr}")


def pytest_collection_finish(session: pytest.Session) -> None:
    """What imports have made stays to the end: the garbage collector need not look at it again and again."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Files whose tests start processes go to one worker: the server that forks them imports everything once."""
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class OneServer(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "apart" if _starts_processes(file) else file

    return OneServer(config, log)


@functools.cache
def _starts_processes(file: str) -> bool:
    path = ROOT / file
    return path.is_file() and "from tests.apart import" in path.read_text(encoding="utf-8")


@pytest.fixture(scope="session", autouse=True)
def no_power_cut() -> Iterator[None]:
    """Files need not reach the disk: nothing here outlives the machine. Tests of failing disks have their own."""
    former, os.fsync = os.fsync, lambda handle: None
    yield
    os.fsync = former


@pytest.fixture(scope="session", autouse=True)
def interrupts() -> Iterator[None]:
    """Ctrl-C stops, as in front: a shell's background jobs start with SIGINT ignored, and so would what they start."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Torch and OpenCV compute on one thread: faster beside other processes, and sums have one order."""
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(0)


@pytest.fixture(scope="session", autouse=True)
def freed_memory() -> None:
    """Large maps take what others have freed, as in every command, instead of new pages that must be cleared."""
    from pipelines.store import processes

    processes.keep_freed_memory()


@pytest.fixture(scope="session", autouse=True)
def one_tree_of_commands() -> Iterator[None]:
    """Typer builds all commands anew for every line that a test runs; once is enough."""
    import typer.testing

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.testing, "_get_command", functools.cache(typer.testing._get_command))
        yield


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No test reads or fills the user's own cache of scenes: $QDBEV_CACHE is a folder of this test run."""
    folder = _run_folder(tmp_path_factory) / "cache"
    folder.mkdir(exist_ok=True)
    os.environ["QDBEV_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def triton_device() -> torch.device:
    """Where Triton kernels run; a test that needs them is skipped where Triton is absent."""
    pytest.importorskip("triton", reason="Triton, which torch's CUDA builds bring, is not here")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="session")
def compiled_for_gpus(
    triton_device: torch.device, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., list[tuple[str, int]]]:
    """Compile kernels of a module for GPUs that need not be here: name and compute capability of what was made."""

    def run(module: str, kernels: list[dict[str, object]]) -> list[tuple[str, int]]:
        command = [sys.executable, str(ROOT / "tests" / "compile_kernels.py"), module]
        outside = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
        outside["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
        given = {"env": outside, "cwd": ROOT, "input": json.dumps(kernels)}
        printed = subprocess.run(command, check=True, capture_output=True, text=True, **given).stdout  # type: ignore[call-overload]
        lines = [line.split() for line in printed.splitlines()]
        return [(name, int(capability)) for name, capability, size in lines if int(size)]

    return run


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ``shared`` beside the clone; a test that needs it is skipped where it is absent."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the reference material (a folder `shared` beside the clone) is not here")
    return folder


@pytest.fixture(scope="session")
def tiny_synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of a synthetic nuScenes of 3 train and 2 val scenes, version ``v1.0-trainval``: look, do not write.

    Four key frames a scene, images of 176x96, seed 0. Made once a test run, whichever process asks first.
    """
    from qdbev.data.synthetic import generate

    folder = _run_folder(tmp_path_factory)
    root = folder / "tiny_synthetic"
    done = folder / "tiny_synthetic.done"
    with FileLock(folder / "tiny_synthetic.lock"):
        if not done.exists():
            generate(
                root,
                version=TINY_VERSION,
                train_scenes=TINY_TRAIN_SCENES,
                val_scenes=TINY_VAL_SCENES,
                seed=0,
                image_size_px=(176, 96),
                key_frames=4,
                sweeps="none",
                workers=1,
                progress=False,
            )
            done.touch()
    return root


@pytest.fixture(scope="session")
def shapes_counted_once() -> Iterator[None]:
    """Dry runs and reports of many tests say what the same detectors take: each is counted once a process."""
    from pipelines.costs import counts, forecast

    asked = {counts: ("count", "footprint"), forecast: ("memory", "inference_bytes", "float_step_bytes")}
    with pytest.MonkeyPatch.context() as patch:
        for module, names in asked.items():
            for name in names:
                patch.setattr(module, name, _counted_once(getattr(module, name)))
        yield


@pytest.fixture(scope="session")
def mite(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A BEVFormer for ``--model`` that has every kind of layer of nano and few numbers, of random weights.

    For laws that hold for any weights: it takes a third of nano's time.
    """
    path = tmp_path_factory.mktemp("models") / "mite.yaml"
    path.write_text(MITE.lstrip("\n"), encoding="utf-8")
    return str(path)


def _counted_once(count: Callable[[Any], Any]) -> Callable[[Any], Any]:
    known: dict[tuple[object, ...], Any] = {}

    def counted(profile: Any) -> Any:
        data = profile.data
        sections = (profile.model, profile.quantization, profile.qat, profile.distillation, profile.float_training)
        read = (*(each.model_dump_json() for each in (*sections, data.rig)), data.image_size_px, data.queue_length)
        if read not in known:
            known[read] = count(profile)
        return known[read]

    return counted


def _run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The temporary folder of the whole run: the processes of pytest-xdist have one each below it."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
