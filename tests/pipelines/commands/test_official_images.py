"""Images of tiny, small and base as their official pipelines make them: colour order, normalisation, size, padding."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

import profiles
from pipelines.assembly.samples import Split, streaming_dataset, training_dataset
from qdbev.data.nuscenes.layout import CAMERAS

IMAGENET = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
CAFFE = ([103.530, 116.280, 123.675], [1.0, 1.0, 1.0])
# mean and std, RGB, size after scaling, size after padding, frames of a training queue
OFFICIAL = {
    "tiny": (IMAGENET, True, (450, 800), (480, 800), 3),
    "small": (CAFFE, False, (720, 1280), (736, 1280), 3),
    "base": (CAFFE, False, (900, 1600), (928, 1600), 4),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_network_sees_what_the_official_pipeline_makes(tmp_path: Path, name: str) -> None:
    (mean, std), rgb, scaled, padded, frames = OFFICIAL[name]
    picture = cv2.resize(np.random.default_rng(0).integers(0, 255, (9, 16, 3), dtype=np.uint8), (1600, 900))
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    image = {"img_path": "a.png", "width": 1600, "height": 900, "cam2img": np.eye(3), "lidar2cam": np.eye(4)}
    boxes = {"bbox_3d": np.zeros((0, 7)), "velocity": np.zeros((0, 2)), "bbox_label_3d": np.zeros(0, dtype=np.int64)}
    sample = {
        "token": "a", "scene": "scene-0001", "index_in_scene": 0, "timestamp": 0, "can_bus": np.zeros(18),
        "images": dict.fromkeys(CAMERAS, image), "lidar_path": "a",
        "instances": boxes | {"bbox_3d_isvalid": np.zeros(0, dtype=bool)},
    }  # fmt: skip
    profile = profiles.load("w4a6", model=name)
    split = Split(tmp_path, "v1.0-mini", [sample], "")
    found = streaming_dataset(split, model=profile.model)[0]  # type: ignore[call-overload]
    pixels = found["inputs"]["img"].numpy()
    assert pixels.shape == (1, 6, 3, *padded)

    wanted = picture[..., ::-1] if rgb else picture  # read as BGR
    wanted = ((wanted.astype(np.float64) - mean) / std).astype(np.float32)
    if scaled != (900, 1600):
        wanted = cv2.resize(wanted, scaled[::-1], interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(pixels[0, 0, :, : scaled[0], : scaled[1]], wanted.transpose(2, 0, 1), atol=1e-3)
    assert not pixels[..., scaled[0] :, :].any()
    (frame,) = found["data_samples"].metainfo["frames"]
    assert frame["img_shape"] == padded
    factor = scaled[0] / 900
    expected = np.diag([factor, factor, 1, 1])
    np.testing.assert_allclose(frame["lidar2img"][0].numpy(), expected, atol=1e-6)

    queue = training_dataset(split, model=profile.model, data=profile.data, schedule=profile.qat)
    assert queue.queue_length == frames  # type: ignore[union-attr]


@pytest.mark.parametrize("name", OFFICIAL)
def test_training_is_the_official_one_where_the_paper_does_not_say_otherwise(name: str) -> None:
    """bevformer_spec.md, section 8: AdamW 2e-4, decay 0.01, backbone x 0.1, clip 35, warm-up 500 from a third."""
    profile = profiles.load("w4a6", model=name)
    for schedule in (profile.float_training, profile.qat):
        assert (schedule.learning_rate, schedule.backbone_multiplier, schedule.weight_decay) == (2e-4, 0.1, 0.01)
        assert (schedule.clip_norm, schedule.warmup_steps, schedule.final_ratio) == (35.0, 500, 1e-3)
        assert schedule.warmup_ratio == pytest.approx(1 / 3)
        assert (schedule.grid_mask_probability, schedule.photometric) == (0.7, True)
    head, model = profile.model.head, profile.model
    assert head.code_weights == (1, 1, 1, 1, 1, 1, 1, 1, 0.2, 0.2) and head.motion_weight == 0
    assert (model.hidden, model.dropout, model.channels, model.heads) == (512, 0.1, 256, 8)
    assert model.bev.rotation_centre_px == (100.0, 100.0) and model.bev.rotation_nearest
    assert (model.backbone.frozen_stages, model.backbone.norm_frozen) == (1, True)
    assert model.backbone.with_checkpointing == (name == "small")
