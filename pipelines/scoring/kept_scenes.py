"""Result entries of scenes that are done, kept beside the artifact in the making: a killed command goes on behind them.

Scenes are kept by the group that ran side by side. What is left then falls into the groups of a run that nothing
disturbed, so that its batches, and with them its numbers, are the same to the last bit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines.assembly.samples import Split
from pipelines.scoring.results import Results
from pipelines.store import processes
from pipelines.store.sealing import explained_writing


class KeptScenes:
    """What of a split is done.

    Args:
        folder: Scratch of the artifact; None keeps nothing.
        split: Whole scenes; of several processes each has its share of them.
        results: Entries by name, empty; what was kept before goes in.
    """

    def __init__(self, folder: Path | None, *, split: Split, results: Mapping[str, Results]) -> None:
        self._folder = folder and folder / f"scenes-{processes.number()}-of-{processes.count()}"
        self._results = results
        self.numbers: dict[str, float] = {}
        """Further numbers of the run so far, kept with the scenes."""
        self._files = 0
        for content in self._read():
            self._take(content)
            self._files += 1
        own = split.only(processes.share(split.scenes))
        self._scene_of = {sample["token"]: sample["scene"] for sample in own.samples}
        self._kept = len(self._tokens())
        done = {self._scene_of[token] for token in self._tokens()}
        self.left = own.only([scene for scene in own.scenes if scene not in done])
        """Scenes that are to be run."""

    @property
    def done(self) -> int:
        """Number of samples that were kept."""
        return self._kept

    def keep(self, **numbers: float) -> None:
        """After a batch: write what is new, where all scenes that began are at their end."""
        self.numbers = numbers
        fresh = self._tokens()[self._kept :]
        begun = {self._scene_of[token] for token in fresh}
        if self._folder is None or len(fresh) < sum(scene in begun for scene in self._scene_of.values()):
            return
        content = {
            "entries": {name: {token: results[token] for token in fresh} for name, results in self._results.items()},
            "left_out": {name: results.left_out for name, results in self._results.items()},
            "numbers": numbers,
        }
        with explained_writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            unfinished = self._folder / "unfinished"
            unfinished.write_text(json.dumps(content), encoding="utf-8")
            unfinished.replace(self._file(self._files))
        self._files += 1
        self._kept += len(fresh)

    def _tokens(self) -> list[str]:
        """Samples that have entries; all names have the same."""
        return list(next(iter(self._results.values())))

    def _file(self, number: int) -> Path:
        assert self._folder is not None
        return self._folder / f"{number:05d}.json"

    def _read(self) -> Iterator[dict[str, Any]]:
        """What was kept, as far as it can be read and is of the same rows."""
        number = 0
        while self._folder is not None and self._file(number).is_file():
            try:
                content = json.loads(self._file(number).read_bytes())
            except ValueError:
                return  # the machine went down while it was written
            if content["entries"].keys() != self._results.keys():
                return
            yield content
            number += 1

    def _take(self, content: Mapping[str, Any]) -> None:
        self.numbers = content["numbers"]
        for name, entries in content["entries"].items():
            self._results[name].update(entries)
            self._results[name].left_out.clear()
            self._results[name].left_out.update(content["left_out"][name])
