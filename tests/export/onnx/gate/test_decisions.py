"""What a trace would get wrong without a word is refused before it is traced: code that goes on by numbers it sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from qdbev.export.onnx.gate.decisions import refuse_decisions

IMAGE = torch.arange(12.0).reshape(1, 3, 2, 2)


@pytest.mark.parametrize(
    ("decides", "how"),
    [
        (lambda x: x if x.mean() > 0 else -x, "Tensor.__bool__"),
        (lambda x: x * x.max().item(), "Tensor.item"),
        (lambda x: x * float(x.max()), "Tensor.__float__"),
        (lambda x: x[:, : int(x.max() / 10)], "Tensor.__int__"),
        (lambda x: sum(x for _ in range(x.argmax())), "Tensor.__index__"),
        (lambda x: x + torch.tensor(x.flatten().tolist()).sum(), "Tensor.tolist"),
        (lambda x: x + torch.from_numpy(x.numpy()), "Tensor.numpy"),
        (lambda x: x if torch.equal(x, x * 2) else x + 1, "torch.equal"),
        (lambda x: x * len(x.nonzero()), "Tensor.nonzero"),
        (lambda x: x * len(torch.nonzero(x)), "torch.nonzero"),
        (lambda x: x[x > 3], "a mask as index"),
        (lambda x: x[0, x[0, :, 0, 0] > 3], "a mask as index"),
    ],
)
def test_numbers_that_leave_torch_are_refused(decides: Callable[[Tensor], Any], how: str) -> None:
    with pytest.raises(ValueError, match=rf"the detector looks at numbers of its tensors \({how}\)"):
        refuse_decisions(lambda: decides(IMAGE))


def test_shapes_decide_freely_and_numbers_within_torch_too() -> None:
    seen = []

    def run() -> None:
        larger = IMAGE if IMAGE.shape[-1] > 1 and len(IMAGE) == 1 else -IMAGE
        seen.append(torch.where(larger > larger.mean(), larger, 0)[:, : larger.size(1) // 2])

    refuse_decisions(run)
    assert seen[0].shape == (1, 1, 2, 2)
