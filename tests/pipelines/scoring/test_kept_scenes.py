"""Stopped behind a scene and given again, ``evaluate`` and ``sensitivity`` run the rest and end with the same bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.assembly.samples import Split
from pipelines.scoring import prediction, shared_run
from pipelines.scoring.kept_scenes import KeptScenes
from pipelines.scoring.results import Results
from pipelines.store.artifacts import Store

Call = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def usual_model(mite: str) -> str:
    return mite


@pytest.fixture(scope="module")
def settings(tiny_synthetic: Path) -> list[str]:
    return [f"data.source={tiny_synthetic}", "calibration.samples=1", "evaluation.streams=1",
            "evaluation.bootstrap_resamples=0", "evaluation.max_boxes=20"]  # fmt: skip


class Stopping(KeptScenes):
    """Stops when one scene of two is kept, as a signal would."""

    def keep(self, **numbers: float) -> None:
        super().keep(**numbers)
        if self.done:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (prediction, ["evaluate", "--profile", "float"]),
        pytest.param(shared_run, ["sensitivity"], marks=pytest.mark.slow),
    ],
)
def test_stopped_and_given_again(
    call: Call, module: Any, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = call(*words, at=whole)
    with monkeypatch.context() as patch:
        patch.setattr(module, "KeptScenes", Stopping)
        with pytest.raises(AssertionError):  # no document is printed
            call(*words, at=broken)
    assert [path.name for path in broken.glob(".scratch/*/scenes-0-of-1/*")] == ["00000.json"]
    ran: list[int] = []

    class Counting(KeptScenes):
        def keep(self, **numbers: float) -> None:
            ran.append(self.done)
            super().keep(**numbers)

    monkeypatch.setattr(module, "KeptScenes", Counting)
    again = call(*words, at=broken)
    assert ran == [4] * 4  # the four frames of the second scene, behind the four of the first
    assert again["metrics"] == expected["metrics"]
    sealed = [{artifact.path.name: artifact.digest for artifact in Store(store).list()} for store in (whole, broken)]
    assert sealed[0] == sealed[1]
    seconds = [one.manifest.record.seconds for one in Store(broken).list() if one.manifest.kind == "evaluation"]
    assert all(0 < spent["frame"] < 60 for spent in seconds) and bool(seconds) == (module is prediction)
    assert not list(broken.glob(".scratch/*"))


def split_of(*scenes: tuple[str, int]) -> Split:
    samples = [{"token": f"{name}{frame}", "scene": name} for name, count in scenes for frame in range(count)]
    return Split(Path(), "v", samples, digest="")


def test_only_groups_at_their_end_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scene a has three frames and b two, side by side: nothing is kept before a's third."""
    monkeypatch.setattr(Split, "only", lambda self, names: split_of(*[(n, count) for n, count in sizes if n in names]))
    sizes = [("a", 3), ("b", 2), ("c", 1)]
    entries = Results(left_out={})  # type: ignore[arg-type]
    kept = KeptScenes(tmp_path, split=split_of(*sizes), results={"row": entries})
    for frames in (["a0", "b0"], ["a1", "b1"], ["a2"]):
        assert kept.done == 0
        entries.update({token: [{"score": 0.1}] for token in frames})
        kept.keep(stages=2)
    assert kept.done == 5
    found = Results(left_out={})  # type: ignore[arg-type]
    again = KeptScenes(tmp_path, split=split_of(*sizes), results={"row": found})
    assert found == entries and again.left.scenes == ["c"] and again.numbers == {"stages": 2}


def test_what_is_damaged_or_of_other_rows_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Split, "only", lambda self, names: self)
    split = split_of(("a", 1))
    kept = KeptScenes(tmp_path, split=split, results={"row": (first := Results(left_out={}))})  # type: ignore[arg-type]
    first["a0"] = []
    kept.keep()
    other = KeptScenes(tmp_path, split=split, results={"another": Results(left_out={})})  # type: ignore[arg-type]
    assert other.done == 0
    next(tmp_path.glob("*/00000.json")).write_text('{"entries"')
    damaged = KeptScenes(tmp_path, split=split, results={"row": Results(left_out={})})  # type: ignore[arg-type]
    assert damaged.done == 0
