"""Taps of an mmdet3d detector: paths, what is recorded of modules that quantization replaced, shapes of features."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qdbev.detectors.configured.taps import check_taps, features, recorded


def model() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("img_nek", r"mmdet3d\.taps\.bev is 'img_nek', which is no module of ModuleDict; did you mean img_neck or"),
        ("qqqq", r"its modules are img_neck, img_head"),
        ("", r"''.*its modules are"),
    ],
)
def test_a_path_that_is_no_module_is_said_with_near_names(path: str, sentence: str) -> None:
    detector = nn.ModuleDict({"img_neck": nn.ReLU(), "img_head": nn.ReLU(), "data_preprocessor": nn.Identity()})
    check_taps(detector, taps={"image": "img_neck", "bev": None})
    with pytest.raises(ValueError, match=sentence):
        check_taps(detector, taps={"image": "img_neck", "bev": path})


def test_what_stands_at_the_path_now_is_recorded_and_nothing_afterwards() -> None:
    detector, picture = model(), torch.ones(1, 3, 2, 2)
    detector[0] = nn.Conv2d(3, 5, 1)  # as quantization does
    with recorded(detector, taps={"image": "0", "bev": None}) as kept:
        detector(picture)
        detector(picture)
    detector(picture)
    assert list(kept) == ["image"] and [tuple(one.shape) for one in kept["image"]] == [(1, 5, 2, 2)] * 2
    assert kept["image"][0].requires_grad


def test_levels_of_a_list_or_dict_are_kept_in_order() -> None:
    class Levels(nn.Module):
        def forward(self, image: torch.Tensor) -> dict[str, list[torch.Tensor]]:
            return {"maps": [image, image[..., ::2]]}

    detector = nn.Sequential(Levels())
    with recorded(detector, taps={"image": "0"}) as kept:
        detector(torch.zeros(2, 3, 4, 4))
    assert [one.shape[-1] for one in kept["image"]] == [4, 2]


def test_views_become_cameras_of_their_key_frame_and_rows_become_cells() -> None:
    maps = torch.arange(2 * 3 * 4 * 5 * 6).reshape(6, 4, 5, 6)
    grid = torch.arange(2 * 4 * 2 * 3).reshape(2, 4, 2, 3)
    found = features({"image": [maps], "bev": [grid]}, tokens=["a", "a", "a", "b", "b", "b"])
    assert found.image is not None and found.bev_BQC is not None and found.bev_mask_BNQD is None
    assert torch.equal(found.image[0][1, 2], maps[5])
    assert torch.equal(found.bev_BQC[1, 4], grid[1, :, 1, 1])  # cell y * columns + x
    cells = torch.zeros(2, 7, 4)
    assert features({"bev": [cells]}, tokens=["a", "b"]).bev_BQC is cells
    five = torch.zeros(2, 6, 4, 2, 2)
    assert features({"image": [five]}, tokens=["a", "b"]).image == [five]
    alone = features({"image": [torch.zeros(2, 4, 5, 6)]}, tokens=["a", "b"]).image  # one camera is a camera too
    assert alone is not None and alone[0].shape == (2, 1, 4, 5, 6)


@pytest.mark.parametrize(
    ("kept", "tokens", "sentence"),
    [
        ({"image": []}, ["a"], "taps.image gave no tensor"),
        ({"image": [torch.zeros(3, 4, 2, 2)]}, ["a", "b"], r"taps\.image gave a tensor of shape \(3, 4, 2, 2\) for 2"),
        ({"image": [torch.zeros(3, 2, 4, 2, 2)]}, ["a", "b"], r"gave a tensor of shape \(3, 2, 4, 2, 2\) for 2"),
        ({"bev": [torch.zeros(2, 4)]}, ["a", "b"], r"taps\.bev gave tensors of shapes \(2, 4\) for 2 key frames"),
        ({"bev": [torch.zeros(1, 4, 2, 2)] * 2}, ["a"], r"\(1, 4, 2, 2\), \(1, 4, 2, 2\) for 1 key frames"),
        ({"image": [torch.zeros(4, 4, 2, 2)]}, ["a", "b", "a", "b"], "not key frame after key frame"),
    ],
)
def test_what_is_no_feature_is_a_sentence(
    kept: dict[str, list[torch.Tensor]], tokens: list[str], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        features(kept, tokens=tokens)
