"""Images reach a detector as they reached its authors' own: mean, spread and order of the channels."""

from __future__ import annotations

import pytest

import profiles
from profiles.detectors.bevdepth import BEVDepthProfile
from profiles.detectors.bevdet import BEVDetProfile
from profiles.detectors.bevformer import BEVFormerProfile
from profiles.detectors.detr3d import DETR3DProfile
from profiles.detectors.petr import PETRProfile

CAFFE = ((103.53, 116.28, 123.675), (1.0, 1.0, 1.0), False)
TORCH = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), True)
SWAPPED = (*TORCH[:2], False)  # BEVDepth turns its RGB images once more
OFFICIAL = {
    "tiny": TORCH,
    "small": CAFFE,
    "base": CAFFE,
    "petr": CAFFE,
    "detr3d": CAFFE,
    "detr3d-r50": TORCH,
    "bevdet": TORCH,
    "bevdet4d": TORCH,
    "bevdepth": SWAPPED,
}
BY_KIND = {
    BEVFormerProfile: TORCH,
    PETRProfile: CAFFE,
    DETR3DProfile: CAFFE,
    BEVDetProfile: TORCH,
    BEVDepthProfile: SWAPPED,
}


@pytest.mark.parametrize("model", OFFICIAL)
def test_of_an_official_variant(model: str) -> None:
    image = profiles.load("float", model=model).model.image
    assert (image.mean, image.std, image.to_rgb) == OFFICIAL[model]


@pytest.mark.parametrize("kind", BY_KIND, ids=lambda kind: kind.__name__)
def test_of_a_file_that_says_nothing_of_them(kind: type) -> None:
    image = kind.model_fields["image"].default
    assert (image.mean, image.std, image.to_rgb) == BY_KIND[kind]
