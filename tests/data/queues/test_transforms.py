"""Image transforms against slow formulas of their own and numbers by hand."""

from __future__ import annotations

import colorsys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mmdet.datasets.transforms import PhotoMetricDistortion
from mmdet3d.registry import TRANSFORMS

from qdbev.data.queues.transforms import (
    GridMaskMultiView,
    LoadMultiView,
    NormalizeMultiView,
    PadMultiView,
    PhotometricDistortionMultiView,
    ScaleMultiView,
    distort,
    grid_mask,
)

PLAIN: dict[str, Any] = {"brightness": 0.0, "contrast": 1.0, "saturation": None, "hue": None,
                         "contrast_first": True, "order": (0, 1, 2)}  # fmt: skip


def pixels(height: int = 6, width: int = 7, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(50, 150, (height, width, 3), dtype=np.uint8)


def slow_distort(pixel: np.ndarray, draw: dict[str, Any]) -> list[float]:
    """One BGR pixel, with the colour change by Python's colorsys."""
    blue, green, red = (float(value) + draw["brightness"] for value in pixel)
    first, last = (draw["contrast"], 1.0) if draw["contrast_first"] else (1.0, draw["contrast"])
    hue, saturation, value = colorsys.rgb_to_hsv(red * first, green * first, blue * first)
    saturation = saturation * (draw["saturation"] or 1.0)
    hue = (hue + (draw["hue"] or 0.0) / 360) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, min(saturation, 1.0), value)
    return [(blue * last, green * last, red * last)[channel] for channel in draw["order"]]


@pytest.mark.parametrize("seed", range(12))
def test_distortion_is_the_slow_formula(seed: int) -> None:
    image = pixels(seed=seed)
    draw = PhotometricDistortionMultiView().draw(np.random.default_rng(seed))
    expected = np.array([[slow_distort(pixel, draw) for pixel in row] for row in image])
    np.testing.assert_allclose(distort(image, **draw), expected, atol=0.02)


def test_distortion_by_hand() -> None:
    image = np.array([[[10, 20, 30]]], dtype=np.uint8)
    assert distort(image, **PLAIN | {"brightness": 5.0, "contrast": 2.0}).tolist() == [[[30, 50, 70]]]
    assert distort(image, **PLAIN | {"brightness": -15.0, "contrast_first": False}).tolist() == [[[-5, 5, 15]]]
    assert distort(image, **PLAIN | {"order": (2, 0, 1)}).tolist() == [[[30, 10, 20]]]
    # saturation halved: each channel goes half the way to the largest
    np.testing.assert_allclose(distort(image, **PLAIN | {"saturation": 0.5}), [[[20, 25, 30]]], atol=1e-4)
    # saturation 2/3 times 1.8 would be 1.2 and stops at 1: the smallest channel becomes 0
    np.testing.assert_allclose(distort(image, **PLAIN | {"saturation": 1.8})[0, 0, [0, 2]], [0, 30], atol=1e-4)


def test_distortion_is_that_of_mmdet(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(8):
        draw = PhotometricDistortionMultiView().draw(np.random.default_rng([9, seed]))
        theirs = PhotoMetricDistortion()
        on = (draw["saturation"] is not None, draw["hue"] is not None)
        values = [draw[name] for name in ("brightness", "contrast", "saturation", "hue")]
        flags = (int(draw["contrast_first"]), 1, 1, *on, 1, *values, list(draw["order"]))
        monkeypatch.setattr(theirs, "_random_flags", lambda flags=flags: flags)
        expected = theirs({"img": pixels(seed=seed)})["img"]
        np.testing.assert_allclose(distort(pixels(seed=seed), **draw), expected, atol=0.02)


def test_draws_are_fair_and_in_range() -> None:
    transform, rng = PhotometricDistortionMultiView(), np.random.default_rng(0)
    draws = [transform.draw(rng) for _ in range(2000)]
    for name, off in (
        ("brightness", 0),
        ("contrast", 1),
        ("saturation", None),
        ("hue", None),
        ("contrast_first", False),
    ):
        assert np.mean([draw[name] != off for draw in draws]) == pytest.approx(0.5, abs=0.05), name
    # half of the images keep their order, and of the other half one in six draws the old one
    assert np.mean([draw["order"] == (0, 1, 2) for draw in draws]) == pytest.approx(7 / 12, abs=0.05)
    drawn = {key: [draw[key] for draw in draws if draw[key] is not None] for key in ("brightness", "contrast", "hue")}
    assert -32 <= min(drawn["brightness"]) < -30 and 30 < max(drawn["brightness"]) <= 32
    assert 0.5 <= min(drawn["contrast"]) < 0.52 and 1.48 < max(drawn["contrast"]) <= 1.5
    assert -18 <= min(drawn["hue"]) < -17 and 17 < max(drawn["hue"]) <= 18


def test_cameras_are_distorted_independently_and_by_the_generator_alone() -> None:
    def run(seed: int) -> list[np.ndarray]:
        results = {"img": [pixels()] * 6, "generator": np.random.default_rng(seed)}
        return list(PhotometricDistortionMultiView()(results)["img"])

    first = run(3)
    assert len({image.tobytes() for image in first}) > 3
    np.testing.assert_array_equal(first, run(3))


def test_normalise_then_resize_then_pad() -> None:
    """In the official order the padding is the mean colour (0), and a resized image is made of normalised floats."""
    image = pixels(5, 9)
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    results: dict[str, Any] = {"img": [image], "lidar2img": np.arange(16.0).reshape(1, 4, 4)}
    for transform in (NormalizeMultiView(mean, std, True), ScaleMultiView(0.5), PadMultiView(8)):
        results = transform(results)
    normal = (image[..., ::-1].astype(np.float64) - mean) / std
    expected = cv2.resize(normal, (4, 2), interpolation=cv2.INTER_LINEAR)  # int(9 / 2), int(5 / 2)
    assert results["img"].shape == (1, 3, 8, 8) and results["img"].dtype == np.float32
    assert results["img_shape"] == (8, 8)
    np.testing.assert_allclose(results["img"][0, :, :2, :4], expected.transpose(2, 0, 1), atol=1e-5)
    assert not results["img"][0, :, 2:].any() and not results["img"][0, :, :, 4:].any()
    assert results["lidar2img"][0].tolist() == [[0, 0.5, 1, 1.5], [2, 2.5, 3, 3.5], [8, 9, 10, 11], [12, 13, 14, 15]]


def test_no_rgb_keeps_the_channels_and_the_input() -> None:
    image = np.array([[[1, 2, 3]]], dtype=np.uint8)
    results = NormalizeMultiView((1, 1, 1), (1, 2, 1), False)({"img": [image]})
    assert results["img"][0].tolist() == [[[0, 0.5, 2]]] and image.tolist() == [[[1, 2, 3]]]


def test_grid_mask_by_a_slow_loop() -> None:
    """The published loop: stripes of rows and columns on a canvas of 1.5 times the size, cut to its centre."""
    rng = np.random.default_rng(1)
    for _ in range(30):
        height, width = (int(side) for side in rng.integers(4, 40, 2))
        period = int(rng.integers(2, height))
        top, left = (int(offset) for offset in rng.integers(0, period, 2))
        tall, wide = int(1.5 * height), int(1.5 * width)
        length = min(max(int(period * 0.5 + 0.5), 1), period - 1)
        canvas = np.zeros((tall, wide))
        for stripe in range(tall // period):
            canvas[period * stripe + top : min(period * stripe + top + length, tall)] = 1
        for stripe in range(wide // period):
            canvas[:, period * stripe + left : min(period * stripe + left + length, wide)] = 1
        down, right = (tall - height) // 2, (wide - width) // 2
        expected = canvas[down : down + height, right : right + width]
        own = grid_mask((height, width), period=period, ratio=0.5, offsets=(top, left))
        np.testing.assert_array_equal(own, expected)


def test_grid_mask_hits_its_share_of_frames_and_all_cameras_alike() -> None:
    transform, masked = GridMaskMultiView(0.7), 0
    for seed in range(300):
        image = transform({"img": np.ones((2, 3, 16, 20), np.float32), "generator": np.random.default_rng(seed)})["img"]
        assert (image == image[0, 0]).all() and set(np.unique(image)) <= {0.0, 1.0}
        masked += bool((image == 0).any())
    assert 0.6 < masked / 300 < 0.8


def test_loading_refuses_what_is_not_the_image(tmp_path: Path) -> None:
    good = tmp_path / "a.jpg"
    cv2.imwrite(str(good), pixels(18, 32))
    request = {"img_path": ["a.jpg"], "img_size": [(18, 32)]}
    assert LoadMultiView(tmp_path)(dict(request))["img"][0].shape == (18, 32, 3)
    with pytest.raises(ValueError, match="32x18, but its table says 1600x900"):
        LoadMultiView(tmp_path)(dict(request) | {"img_size": [(900, 1600)]})
    good.write_bytes(good.read_bytes()[:-100])
    with pytest.raises(ValueError, match="truncated"):
        LoadMultiView(tmp_path)(dict(request))
    good.write_bytes(b"")
    with pytest.raises(ValueError, match="truncated"):
        LoadMultiView(tmp_path)(dict(request))
    with pytest.raises(ValueError, match="cannot be read"):
        LoadMultiView(tmp_path)(dict(request) | {"img_path": ["b.jpg"]})


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="std"):
        NormalizeMultiView((0, 0, 0), (1, 0, 1), True)
    with pytest.raises(ValueError, match="scale"):
        ScaleMultiView(0)


def test_they_are_in_the_registry_of_mmdet3d() -> None:
    assert TRANSFORMS.build({"type": "PadMultiView", "divisor": 32}).divisor == 32


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_as_stored_whatever_orientation_the_file_notes(tmp_path: Path, orientation: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (18, 32, 3), dtype=np.uint8)
    raw = bytes(cv2.imencode(".jpg", pixels)[1].tobytes())
    tag = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + bytes([0, orientation]) + bytes(6)
    (tmp_path / "a.jpg").write_bytes(raw[:2] + b"\xff\xe1" + (len(tag) + 2).to_bytes(2) + tag + raw[2:])
    (tmp_path / "b.jpg").write_bytes(raw)
    results = {"img_path": ["a.jpg", "b.jpg"], "img_size": [(18, 32)] * 2}
    turned, plain = LoadMultiView(tmp_path).transform(results)["img"]
    np.testing.assert_array_equal(turned, plain)
