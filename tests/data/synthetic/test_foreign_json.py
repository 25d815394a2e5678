"""The marker and the settings of a synthetic data set may hold anything: what is no marker is said to be none."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from qdbev.data.synthetic import generate, verify


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("null", "holds a NoneType, not an object"),
        ("[]", "holds a list, not an object"),
        ("[" * 100_000, "is no JSON"),
        ("{}", "has no version and no train and no val and no digest and no tables and no counts of the right type"),
        (
            '{"version": 3, "train": "a", "val": [], "digest": "", "tables": {}, "counts": {}}',
            "no version and no train",
        ),
        (
            '{"version": "v", "train": [3], "val": [], "digest": "", "tables": {}, "counts": {}}',
            "scenes/3.json is miss",
        ),
    ],
)
def test_a_marker_of_another_type(tiny_synthetic: Path, tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "synthetic.json").write_text(text)
    with pytest.raises(ValueError, match=r"synthetic\.json|scenes") as caught:
        verify(tmp_path)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"), [("3", "holds a int"), ("[" * 100_000, "no JSON"), ("{}", "other settings")]
)
def test_settings_of_another_type(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(ValueError, match=sentence):
        generate(tmp_path, train_scenes=1, val_scenes=0, workers=1, progress=False)


def test_counts_of_another_type(tiny_synthetic: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(tiny_synthetic, root)
    marker = root / "synthetic.json"
    marker.write_text(marker.read_text().replace('"samples":', '"frames":'))
    with pytest.raises(ValueError, match="has no whole counts"):
        verify(root)
