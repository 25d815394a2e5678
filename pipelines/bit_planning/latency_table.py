"""A table of measured latencies: milliseconds by layer, weight bits and activation bits, from the device that counts.

Fake quantization is no faster at fewer bits, so the numbers come from elsewhere: a vendor's profiler, or
``scripts/measure_layer_latency.py``. CSV with these columns, or JSON, a list of objects with these fields:

    path,weight_bits,activation_bits,milliseconds
    img_backbone.conv1,8,8,0.031

Rows of anything that is no quantized layer (sampling, softmax, layers in float) count as time that no choice changes.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from pipelines.store.integrity import UnusableInput
from profiles import fingerprint
from profiles.home import expanded


class Timed(NamedTuple):
    """What was timed: a layer at some bits."""

    path: str
    weight_bits: int
    activation_bits: int

    @property
    def bits(self) -> tuple[int, int]:
        """Of weights and inputs."""
        return self.weight_bits, self.activation_bits


LatencyTable = dict[Timed, int]
"""Nanoseconds, whole ones, so that sums are exact."""


class _Row(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)

    path: str = Field(min_length=1)
    weight_bits: int = Field(ge=2, le=32)
    activation_bits: int = Field(ge=2, le=32)
    milliseconds: float = Field(ge=0)


_ROWS = TypeAdapter(list[_Row])


def read_latency_table(path: str | Path) -> LatencyTable:
    """Read a table.

    Args:
        path: A ``.json`` file, or CSV by any other name.

    Raises:
        UnusableInput: It cannot be read, a row lacks a column or has a wrong value, or one layer and bits stand twice.
    """
    file = expanded(path)
    try:
        rows = _ROWS.validate_python(_content(file))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, csv.Error, RecursionError) as error:
        raise UnusableInput(f"the latency table {file} cannot be read: {error}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = " ".join(str(step) for step in first["loc"])
        raise UnusableInput(
            f"the latency table {file} is refused: row {where}: {first['msg']}; rows count from 0 and have path, "
            "weight_bits, activation_bits and milliseconds"
        ) from None
    table: LatencyTable = {}
    for row in rows:
        timed = Timed(row.path, row.weight_bits, row.activation_bits)
        if timed in table:
            raise UnusableInput(f"the latency table {file} has {row.path} twice at {spelled(timed.bits)}")
        table[timed] = round(row.milliseconds * 1e6)
    if not any(table.values()):
        raise UnusableInput(f"the latency table {file} holds no time above zero")
    return table


def table_digest(table: LatencyTable) -> str:
    """The fingerprint of what a table says, in whatever order and file."""
    return fingerprint(sorted([*timed, nanoseconds] for timed, nanoseconds in table.items()))


def spelled(bits: tuple[int, int]) -> str:
    """Bits of weights and inputs as they are written.

    >>> spelled((4, 8))
    'W4A8'
    """
    return f"W{bits[0]}A{bits[1]}"


def _content(file: Path) -> object:
    if file.exists() and not file.is_file():
        raise UnusableInput(f"the latency table {file} is no file")
    text = file.read_text(encoding="utf-8-sig")
    return json.loads(text) if file.suffix == ".json" else list(csv.DictReader(text.splitlines()))
