"""What is exported: a calibrated nano."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="module")
def model(call: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """The artifact as ``calibrate`` says it."""
    artifact: dict[str, Any] = call("calibrate")["artifact"]
    return artifact
