"""A sealed submission: compressed, byte for byte the same for the same content, and read as what it was."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.lineage.kinds import RESULTS, SUBMISSION
from pipelines.scoring.results_file import read_results, write_results
from pipelines.store.artifacts import DamagedArtifact

BOX = {"sample_token": "t", "translation": [1.25, -0.1, 1e-17], "detection_score": 0.1 + 0.2}
CONTENT = {"meta": {"use_camera": True}, "results": {"t": [BOX] * 100}}


def sealed(folder: Path, *names: str) -> Any:
    return SimpleNamespace(manifest=SimpleNamespace(files=names), file=lambda name: folder / name)


def test_what_is_read_is_what_was_written_to_the_last_bit(tmp_path: Path) -> None:
    write_results(CONTENT, folder=tmp_path)
    first = (tmp_path / RESULTS).read_bytes()
    assert read_results(sealed(tmp_path, RESULTS)) == CONTENT
    assert gzip.decompress(first) == json.dumps(CONTENT).encode()
    assert len(first) < len(json.dumps(CONTENT)) / 10
    write_results(CONTENT, folder=tmp_path)
    assert (tmp_path / RESULTS).read_bytes() == first


def test_evaluations_sealed_before_are_read_too(tmp_path: Path) -> None:
    (tmp_path / SUBMISSION).write_text(json.dumps(CONTENT))
    assert read_results(sealed(tmp_path, SUBMISSION)) == CONTENT


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", gzip.compress(b"{", mtime=0), gzip.compress(b"[]", mtime=0), gzip.compress(b"{}", mtime=0)[:-3]],
)
def test_another_file_is_damage(tmp_path: Path, data: bytes) -> None:
    (tmp_path / RESULTS).write_bytes(data)
    with pytest.raises(DamagedArtifact, match=r"results_nusc\.json\.gz"):
        read_results(sealed(tmp_path, RESULTS))
