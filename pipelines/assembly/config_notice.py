"""A config of mmdet3d in Python is a program: who names one is told once that it runs."""

from __future__ import annotations

import contextlib
from pathlib import Path

from pipelines.store.locations import cache_folder
from profiles.profile import Profile

_SEEN = "configs_that_run"


def config_notice(profile: Profile) -> str:
    """The sentence about a config that runs, the first time its digest is seen; else empty.

    What was seen is remembered in the cache folder; where that cannot be written, the sentence comes every time.

    Args:
        profile: Its model section names the config, or none.
    """
    config, sha256 = profile.model.program
    if config is None or not _runs(Path(config)):
        return ""
    seen = cache_folder(profile.data) / _SEEN / str(sha256)
    if seen.exists():
        return ""
    with contextlib.suppress(OSError):
        seen.parent.mkdir(parents=True, exist_ok=True)
        seen.touch()
    return f"the config {config} is Python and runs, with all that it imports: use configs that you trust"


def _runs(config: Path) -> bool:
    """Whether reading a config runs Python: its own, that of a base, or of modules it asks to be imported."""
    text = config.expanduser().read_text(encoding="utf-8", errors="replace")
    return config.suffix == ".py" or ".py" in text or "custom_imports" in text
