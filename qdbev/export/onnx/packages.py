"""The packages that only an export needs, imported when one runs; without them a sentence says what to install."""

from __future__ import annotations

import importlib
import os
from functools import cache
from typing import Any

_INSTALL = "pip install -e .[export]"


def onnx_package() -> Any:
    """``onnx``."""
    return _imported("onnx")


def runtime_package() -> Any:
    """``onnxruntime``, which is told to send nothing home."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return _imported("onnxruntime")


def openvino_package() -> Any:
    """``openvino``."""
    return _imported("openvino")


@cache
def openvino_core() -> Any:
    """OpenVINO, once a process and to its end.

    Its CPU plugin gives signal handlers another stack. Where two cores end in the order they were made, the second puts
    back the stack that the first has unmapped, and the next signal is a segmentation fault.
    """
    return openvino_package().Core()


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"{name} is not installed ({error}), and an export to ONNX needs it: {_INSTALL}") from error
