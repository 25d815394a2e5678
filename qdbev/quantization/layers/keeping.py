"""Where long work on a model keeps what is done, as tensors by name: what was stopped goes on from there."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


class Keeper:
    """Where the rounds that are done are kept: nowhere, unless a subclass says where."""

    def kept(self) -> Mapping[str, Tensor]:
        """What was kept last, by a call that was stopped; nothing where there was none."""
        return {}

    def keep(self, tensors: Mapping[str, Tensor]) -> None:
        """Keep these in the place of what was kept before; ``rounds`` counts what is done."""


NOWHERE = Keeper()
