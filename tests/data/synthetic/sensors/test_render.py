"""Images of hand-placed boxes: where they appear, what hides them, and how much of them is seen."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from qdbev.data.synthetic.sensors.appearance import draw_appearance
from qdbev.data.synthetic.sensors.cameras import Sensor
from qdbev.data.synthetic.sensors.ground import paint_ground
from qdbev.data.synthetic.sensors.render import Painter, Shot, clip_near
from qdbev.data.synthetic.sensors.view import View, headlight
from qdbev.data.synthetic.stage.crowd import Crowd
from qdbev.data.synthetic.tokens import generator

FOCAL, WIDTH, HEIGHT = 100.0, 176, 96
INTRINSIC = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
FORWARD = Sensor("CAM_FRONT", np.array([0.0, 0.0, 1.5]), np.array([0.5, -0.5, 0.5, -0.5]), INTRINSIC)


def shoot(crowd: Crowd, *, supersampling: int = 4) -> Shot:
    look = draw_appearance(generator("look"))
    world = crowd.world
    ground = paint_ground(generator("ground"), world.layout, ego_track=world.ego_track, metres_per_px=0.3)
    view = View(FORWARD, image_size_px=(WIDTH, HEIGHT), appearance=look, ground=ground, skyline=np.zeros(720))
    painter = Painter(crowd, view, appearance=look, camera=0, supersampling=supersampling)
    return painter.shoot(crowd.at(0.5), generator("shot"))


def test_the_pixels_of_a_wall_are_its_projected_area(crowd_of: Callable) -> None:
    shot = shoot(crowd_of((10.5, 0.0, 0.0, (1.0, 3.0, 1.4))))  # its face 3.0 x 1.4 m at 10 m, the top below the eye
    face, top = 30 * 14, (1 / 10 - 1 / 11) * 0.1 * FOCAL * (30 + 30 * 10 / 11) / 2
    assert shot.seen_px[0] == shot.alone_px[0] == pytest.approx(face + top, rel=0.04)


def test_a_near_box_hides_half_of_a_far_one(crowd_of: Callable) -> None:
    shot = shoot(crowd_of((20.5, 0.0, 0.0, (1.0, 4.0, 1.5)), (10.5, 1.0, 0.0, (1.0, 2.0, 1.5))))
    assert shot.seen_px[0] / shot.alone_px[0] == pytest.approx(0.5, abs=0.03)
    assert shot.seen_px[1] == shot.alone_px[1]


def test_a_thing_behind_the_camera_is_not_seen(crowd_of: Callable) -> None:
    shot = shoot(crowd_of((-10.0, 0.0, 0.0, (4.0, 2.0, 1.5))))
    assert shot.alone_px[0] == 0


def test_a_thing_through_the_camera_plane_is_clipped_not_mirrored(crowd_of: Callable) -> None:
    shot = shoot(crowd_of((0.0, 2.0, 0.0, (8.0, 1.0, 1.5))))  # beside the camera, from behind it to before it
    assert 0 < shot.alone_px[0] < WIDTH * HEIGHT / 2
    red = shot.image[..., 0].astype(int) - shot.image[..., 2]
    assert red[60:, : WIDTH // 4].mean() > red[60:, -WIDTH // 4 :].mean() + 15


@pytest.mark.parametrize("supersampling", [1, 2])
def test_pixel_counts_do_not_depend_on_supersampling(crowd_of: Callable, supersampling: int) -> None:
    crowd = crowd_of((12.0, 1.0, 0.4, (4.5, 1.9, 1.6)))
    assert shoot(crowd, supersampling=supersampling).seen_px[0] == pytest.approx(
        shoot(crowd).seen_px[0], rel=0.12
    )  # OpenCV paints edges whole


def test_clipping_a_triangle_at_the_near_plane() -> None:
    triangle = np.array([[0.0, 0, -1], [0, 0, 3], [2, 0, 3]])
    clipped = clip_near(triangle, near=1.0)
    assert sorted(map(tuple, clipped.round(9).tolist())) == [(0, 0, 1), (0, 0, 3), (1, 0, 1), (2, 0, 3)]
    assert len(clip_near(-np.abs(triangle), near=1.0)) == 0


def test_head_lamps_light_from_two_metres_ahead_and_fade() -> None:
    ahead = headlight(np.array([-5.0, 2.0, 4.0, 6.0, 34.0]), np.zeros(5))
    assert ahead.tolist() == pytest.approx([0, 0, 0.5 * np.exp(-4 / 28), np.exp(-6 / 28), np.exp(-34 / 28)])
    assert headlight(np.array(6.0), np.array([-3.0, 3.0])).tolist() == pytest.approx(
        [ahead[3] * np.exp(-((3 / 3.82) ** 2))] * 2
    )
