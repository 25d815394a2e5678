"""mmcv's suppression of turned boxes, unseen by those who watch operations.

On a CPU its kernel looks at every pair of boxes through operations of torch. Where these are watched, each of them
goes through Python: minutes for a thousand boxes. What comes out are places in a list, which nobody watches for.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

from torch.utils._python_dispatch import _disable_current_modes


@contextlib.contextmanager
def unwatched_suppression() -> Iterator[None]:
    """Within, mmcv's kernel runs as where nobody watches; its results are the same."""
    compiled: Any = importlib.import_module("mmcv._ext")
    kernel = compiled.nms_rotated

    def unwatched(*boxes: Any, **options: Any) -> Any:
        with _disable_current_modes():
            return kernel(*boxes, **options)

    compiled.nms_rotated = unwatched
    try:
        yield
    finally:
        compiled.nms_rotated = kernel
