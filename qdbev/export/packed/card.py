"""The card of a packed model, ``README.md`` as model hubs read it: YAML for machines, then the same for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

_FENCE = "---\n"


@dataclass(frozen=True)
class Score:
    """A model's scores on one split."""

    name: str
    """What is scored, such as ``W4A6``."""
    values: Mapping[str, float | None]
    """NDS, mAP and the errors."""


@dataclass(frozen=True)
class Scored:
    """On what scores stand."""

    data: str
    """Name of the data set."""
    kind: str
    """Its name on hubs."""
    split: str
    samples: int
    scores: Sequence[Score]
    """The model's own first, then those that it is held against."""


@dataclass(frozen=True)
class Licence:
    """Under which licence the weights stand."""

    name: str
    """An identifier of hubs, or ``other``."""
    title: str = ""
    """What ``other`` is."""
    link: str = ""
    """Where it is written."""

    def front_matter(self) -> dict[str, str]:
        """The keys of hubs."""
        named = {"license": self.name, "license_name": self.title, "license_link": self.link}
        return {key: value for key, value in named.items() if value}


def model_card(
    name: str,
    *,
    architecture: str,
    base_model: str,
    licence: Licence,
    bits: str,
    files: Mapping[str, int],
    origin: Mapping[str, str],
    scored: Scored | None,
) -> str:
    """The text of the card.

    Args:
        name: Of the model.
        architecture: Kind of the detector.
        base_model: What hubs call the float model.
        licence: Of the weights.
        bits: Such as ``W4A6``.
        files: Bytes by file.
        origin: What it was made from: digests by role.
        scored: Scores, where it was evaluated.
    """
    front: dict[str, Any] = {
        "library_name": "qdbev",
        "pipeline_tag": "object-detection",
        "tags": ["3d-object-detection", "bird-eye-view", "quantization", architecture, bits.lower()],
        "base_model": base_model,
        "base_model_relation": "quantized",
        **licence.front_matter(),
    }
    if scored is not None:
        front["model-index"] = [{"name": name, "results": [_result(scored)]}]
    text = yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=120)
    return "\n".join([f"{_FENCE}{text}{_FENCE}", *_body(name, architecture, bits, files, origin), *_scores(scored)])


def _result(scored: Scored) -> dict[str, Any]:
    first = scored.scores[0]
    metrics = [{"type": key, "name": key, "value": value} for key, value in first.values.items() if value is not None]
    return {
        "task": {"type": "object-detection", "name": "3D object detection from cameras"},
        "dataset": {"name": scored.data, "type": scored.kind, "split": scored.split},
        "metrics": metrics,
    }


def _body(name: str, architecture: str, bits: str, files: Mapping[str, int], origin: Mapping[str, str]) -> list[str]:
    rows = [f"| `{file}` | {size} |" for file, size in files.items()]
    return [
        f"# {name}",
        "",
        f"A camera-only 3D detector ({architecture}) in {bits}: weights as packed integers, batch norms folded.",
        "",
        "```",
        "qdbev evaluate FOLDER",
        "```",
        "",
        "`config.json` says how to read every tensor. The numbers are those of the quantized model that was scored, "
        "bit for bit.",
        "",
        "| file | bytes |",
        "|---|---|",
        *rows,
        "",
        "| made from | digest |",
        "|---|---|",
        *(f"| {role} | `{digest}` |" for role, digest in origin.items()),
        "",
    ]


def _scores(scored: Scored | None) -> list[str]:
    if scored is None:
        return ["It was not evaluated before it was packed, so no scores stand here.", ""]
    names = list(scored.scores[0].values)
    rows = [
        f"| {score.name} | " + " | ".join(_text(score.values[name]) for name in names) + " |" for score in scored.scores
    ]
    return [
        f"| {scored.data}, {scored.split} | " + " | ".join(names) + " |",
        "|---" * (len(names) + 1) + "|",
        *rows,
        "",
        f"{scored.samples} samples, scored by nuscenes-devkit (detection_cvpr_2019).",
        "",
    ]


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
