"""Which thing can hide which: hand-made places, and the law that no painted thing covers one before it."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import LineString, Polygon

from qdbev.data.synthetic.geometry import corners, overlap
from qdbev.data.synthetic.sensors.painting import cannot_hide, paint_order

_pose = st.tuples(st.floats(-25, 25), st.floats(-25, 25), st.floats(-3.1, 3.1), st.floats(0.4, 12), st.floats(0.4, 3))


def test_a_person_beside_the_far_end_of_a_bus_is_painted_after_it() -> None:
    bus = corners(np.array([15.0, 5.0, 0.0]), length=12.0, width=3.0)
    person = corners(np.array([20.0, 3.0, 0.0]), length=0.6, width=0.6)  # farther than the bus, yet before its side
    assert paint_order(np.array([person, bus]), np.zeros(2)) == [1, 0]


def test_no_things_no_order() -> None:
    assert paint_order(np.zeros((0, 4, 2)), np.zeros(2)) == []


@given(_pose, _pose)
def test_what_cannot_hide_does_not_hide(a: tuple, b: tuple) -> None:
    one, other = (corners(np.array(p[:3]), length=p[3], width=p[4]) for p in (a, b))
    eye = np.zeros(2)
    apart = not overlap(one, other[None])[0]
    outside = not any(Polygon(r).buffer(0.01).contains(LineString([eye, eye + 1e-3])) for r in (one, other))
    if apart and outside and cannot_hide(np.array([one, other]), eye)[0, 1]:
        shrunk = Polygon(one).buffer(-0.02)
        assert not any(shrunk.intersects(LineString([eye, corner])) for corner in other)


@given(st.lists(_pose, min_size=1, max_size=8))
def test_each_thing_is_painted_once(poses: list[tuple]) -> None:
    rectangles = np.array([corners(np.array(p[:3]), length=p[3], width=p[4]) for p in poses])
    assert sorted(paint_order(rectangles, np.zeros(2))) == list(range(len(poses)))
