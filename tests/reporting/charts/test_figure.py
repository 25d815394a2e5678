"""Figures: exact sizes, known formats, the same bytes at every run."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from qdbev.reporting.charts.figure import new_figure, picture_bytes


def test_a_png_has_the_size_asked_for_and_a_white_ground():
    image = cv2.imdecode(np.frombuffer(picture_bytes(new_figure(width_px=123, height_px=45), form="png"), np.uint8), 1)
    assert image.shape == (45, 123, 3)
    assert (image == 255).all()


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match=r"'gif'.*png, svg"):
        picture_bytes(new_figure(width_px=10, height_px=10), form="gif")
