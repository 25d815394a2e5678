"""One scene as a picture: six cameras with boxes of several sources, and each source from above (paper, figure 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from qdbev.reporting.charts.figure import BLUE, DPI, GREEN, INK, ORANGE, STYLE, new_figure
from qdbev.reporting.drawings.bev_drawing import draw_bev_boxes, draw_bev_ground
from qdbev.reporting.drawings.camera_drawing import draw_camera_boxes, enlarge_image

SOURCE_COLOURS = (GREEN, BLUE, ORANGE)
CLASS_COLOURS = (
    "#2f6fde",  # car
    "#8250df",  # truck
    "#b35900",  # construction_vehicle
    "#d0417f",  # bus
    "#6e5494",  # trailer
    "#7a828b",  # barrier
    "#0e8f8f",  # motorcycle
    "#1a9c50",  # bicycle
    "#cf222e",  # pedestrian
    "#e8710a",  # traffic_cone
)
# nuScenes' order of cameras in the data, and where each stands in the picture
CAMERA_NAMES = ("front", "front right", "front left", "back", "back left", "back right")
CAMERA_PLACES = ((2, 0, 1), (4, 3, 5))
MARGIN_PX, GAP_PX, HEADER_PX, TITLE_PX = 14, 8, 44, 40
IMAGE_FORMATS = ("png", "jpg")


@dataclass(frozen=True)
class BoxSource:
    """Boxes of one origin.

    Attributes:
        name: as it stands in the legend ("ground truth", "float", "W4A6").
        boxes: (n, 9) in the LiDAR frame, bottom centres (see projection.py).
        labels: (n,) class indices in nuScenes' detection order; used where ``colour`` is None.
        scores: (n,) in 0 to 1; None for the ground truth.
        colour: of all boxes of this source; None colours each box by its class.
    """

    name: str
    boxes: np.ndarray
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    scores: np.ndarray | None = None
    colour: str | None = GREEN


def scene_image(
    images: Sequence[np.ndarray],
    *,
    lidar2img: np.ndarray,
    sources: Sequence[BoxSource],
    min_score: float = 0.3,
    range_m: float = 51.2,
    width_px: int = 1600,
    title: str = "",
) -> np.ndarray:
    """Draws the six cameras in two rows (front, back) and, below, one panel from above for each source.

    The first source is taken as the truth: it lies, filled, beneath the others in their panels.

    Args:
        images: Six (H, W, 3) uint8 RGB images in nuScenes' order (FRONT, FRONT_RIGHT, FRONT_LEFT, BACK, BACK_LEFT,
            BACK_RIGHT), any size; small ones are enlarged.
        lidar2img: (6, 4, 4) projections to the pixels of ``images``.
        sources: One to three of them, drawn in this order.
        min_score: Boxes with a lower score are left out.
        range_m: Half the side of the panels from above.
        width_px: Width of the whole picture.
        title: A line at the top left.

    Returns:
        (height, width_px, 3) uint8 RGB.

    Raises:
        ValueError: not six images or projections, or not one to three sources.
    """
    if len(images) != 6 or np.shape(lidar2img) != (6, 4, 4):
        raise ValueError(f"expected 6 images and lidar2img (6, 4, 4), got {len(images)} and {np.shape(lidar2img)}")
    if not 1 <= len(sources) <= 3:
        raise ValueError(f"expected one to three box sources, got {len(sources)}")
    shown = [confident(source, min_score=min_score) for source in sources]
    column_px = (width_px - 2 * MARGIN_PX - 2 * GAP_PX) // 3
    camera_px = round(column_px * images[0].shape[0] / images[0].shape[1])
    height_px = HEADER_PX + 2 * (camera_px + GAP_PX) + TITLE_PX + column_px + MARGIN_PX
    with matplotlib.rc_context(STYLE):
        figure = new_figure(width_px=width_px, height_px=height_px)
        figure.patch.set_facecolor("white")
        _draw_header(figure, sources=shown, title=title)
        _draw_cameras(figure, images=images, lidar2img=lidar2img, sources=shown, size_px=(column_px, camera_px))
        _draw_panels(figure, sources=shown, side_px=column_px, range_m=range_m)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def encode_image(image: np.ndarray, *, form: str = "png", quality: int = 92) -> bytes:
    """The picture as a file.

    Args:
        image: (H, W, 3) uint8 RGB.
        form: "png", or "jpg" for a file of about a fifth of the size.
        quality: Of JPEG, 1 to 100.

    Raises:
        ValueError: the form is unknown.
    """
    if form not in IMAGE_FORMATS:
        raise ValueError(f"an image cannot be written as {form!r}; choose one of {', '.join(IMAGE_FORMATS)}")
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if form == "jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 9]
    _, encoded = cv2.imencode(f".{form}", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    return encoded.tobytes()


def confident(source: BoxSource, *, min_score: float) -> BoxSource:
    """The source without its boxes of a lower score; a source without scores keeps all."""
    if source.scores is None:
        return source
    likely = np.asarray(source.scores) >= min_score
    labels = source.labels[likely] if len(source.labels) else source.labels
    return BoxSource(source.name, source.boxes[likely], labels, source.scores[likely], source.colour)


def box_colours(source: BoxSource) -> list[str]:
    """One colour per box: the source's, or the class's where the source has none."""
    if source.colour is not None:
        return [source.colour] * len(source.boxes)
    return [CLASS_COLOURS[int(label) % len(CLASS_COLOURS)] for label in source.labels]


def _draw_header(figure: Figure, *, sources: Sequence[BoxSource], title: str) -> None:
    """Title on the left, legend on the right."""
    height = figure.get_figheight() * DPI
    left, middle = MARGIN_PX / (figure.get_figwidth() * DPI), 1 - HEADER_PX / 2 / height
    figure.text(left, middle, title, va="center", color=INK, fontsize=12)
    named = [source for source in sources if source.colour is not None]
    marks = [Line2D([], [], color=source.colour, linewidth=4, solid_capstyle="butt") for source in named]
    if marks:
        figure.legend(
            marks,
            [source.name for source in named],
            loc="upper right",
            ncols=len(marks),
            frameon=False,
            labelcolor=INK,
            fontsize=12,
            handlelength=1.4,
            borderaxespad=0.5,
        )


def _draw_cameras(
    figure: Figure,
    *,
    images: Sequence[np.ndarray],
    lidar2img: np.ndarray,
    sources: Sequence[BoxSource],
    size_px: tuple[int, int],
) -> None:
    """Puts the six drawn images at whole pixels, each with its name in the corner."""
    width_px, height_px = size_px
    full_width, full_height = figure.get_figwidth() * DPI, figure.get_figheight() * DPI
    for line, cameras in enumerate(CAMERA_PLACES):
        for column, camera in enumerate(cameras):
            picture = _camera_picture(images[camera], lidar2img=lidar2img[camera], sources=sources, size_px=size_px)
            left = MARGIN_PX + column * (width_px + GAP_PX)
            top = HEADER_PX + line * (height_px + GAP_PX)
            figure.figimage(picture, xo=left, yo=round(full_height) - top - height_px, origin="upper")
            figure.text(
                (left + 10) / full_width,
                1 - (top + 10) / full_height,
                CAMERA_NAMES[camera],
                color="white",
                va="top",
                fontsize=9,
                bbox={"facecolor": "black", "alpha": 0.45, "edgecolor": "none", "boxstyle": "round,pad=0.3"},
            )


def _camera_picture(
    image: np.ndarray, *, lidar2img: np.ndarray, sources: Sequence[BoxSource], size_px: tuple[int, int]
) -> np.ndarray:
    """One image at the size it is shown, with the boxes of all sources."""
    width_px, height_px = size_px
    picture, projection = enlarge_image(image, lidar2img=lidar2img, width_px=width_px, height_px=height_px)
    for source in sources:
        colours = np.array([to_rgb(colour) for colour in box_colours(source)]).reshape(-1, 3) * 255
        picture = draw_camera_boxes(
            picture, boxes=source.boxes, lidar2img=projection, colours=colours.round().astype(np.uint8)
        )
    return picture


def _draw_panels(figure: Figure, *, sources: Sequence[BoxSource], side_px: int, range_m: float) -> None:
    """One panel from above per source; from the second on, the first lies filled beneath."""
    full_width, full_height = figure.get_figwidth() * DPI, figure.get_figheight() * DPI
    for column, source in enumerate(sources):
        left = MARGIN_PX + column * (side_px + GAP_PX)
        axes = figure.add_axes(
            (left / full_width, MARGIN_PX / full_height, side_px / full_width, side_px / full_height)
        )
        draw_bev_ground(axes, range_m=range_m)
        truth = sources[0]
        draw_bev_boxes(axes, boxes=truth.boxes, colours=box_colours(truth), filled=True, opacity=0.35)
        draw_bev_boxes(axes, boxes=source.boxes, colours=box_colours(source), filled=False)
        axes.set_title(f"{source.name}: {len(source.boxes)} boxes", loc="left", color=INK, fontsize=11, pad=6)
