"""What a graph says of itself in ``metadata_props``, which a runtime gives back: classes, ranges, score and more."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qdbev.export.onnx.packages import onnx_package

if TYPE_CHECKING:
    import onnx

PREFIX = "qdbev."


def write_metadata(model: onnx.ModelProto, values: Mapping[str, Any]) -> None:
    """Write values, as JSON, under ``qdbev.<name>``."""
    texts = {f"{PREFIX}{name}": json.dumps(value, sort_keys=True) for name, value in values.items()}
    onnx_package().helper.set_model_props(model, texts)


def read_metadata(model: onnx.ModelProto) -> dict[str, Any]:
    """The values that ``write_metadata`` wrote; empty where they were stripped."""
    properties = {entry.key: entry.value for entry in model.metadata_props}
    return {name.removeprefix(PREFIX): json.loads(text) for name, text in properties.items() if name.startswith(PREFIX)}


def describe_ports(model: onnx.ModelProto, *, meanings: Mapping[str, str]) -> None:
    """Say of each input and output what it is."""
    for port in (*model.graph.input, *model.graph.output):
        port.doc_string = meanings.get(port.name, "")
