"""Draw the annotated boxes of one nuScenes key frame into its six cameras, from a record in mmdet3d's info format.

The photographs stay out unless asked for: nuScenes is CC BY-NC-SA 4.0. Green are our projections of the 3D boxes, grey
the rectangles that mmdet3d noted for each camera.

python scripts/draw_keyframe.py ../shared/real-sample --out docs/images/keyframe.png
"""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from qdbev.data.geometry import lidar_to_image
from qdbev.data.nuscenes.layout import CAMERAS
from qdbev.reporting.charts.figure import GREEN
from qdbev.reporting.drawings.scene import BoxSource, encode_image, scene_image

SHEET, BORDER, REFERENCE = (246, 248, 250), (140, 149, 159), (175, 184, 193)
TITLE = "boxes of a nuScenes key frame (Motional AD Inc., CC BY-NC-SA 4.0)"


def main() -> None:
    """Parse the command line, read the record, draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="one .pkl of one key frame, and its images")
    parser.add_argument("--out", type=Path, default=Path("docs/images/keyframe.png"))
    parser.add_argument("--photographs", action="store_true", help="into the images, for one's own eyes")
    options = parser.parse_args()
    record = read_record(options.folder)
    sheets = [photograph(record, camera, options.folder) if options.photographs else blank() for camera in CAMERAS]
    for sheet, camera in zip(sheets, CAMERAS, strict=True):
        draw_reference(sheet, record["cam_instances"][camera])
    boxes = bottom_boxes(record)
    picture = scene_image(
        sheets,
        lidar2img=projections(record),
        sources=[BoxSource("annotated boxes", boxes, colour=GREEN)],
        title=TITLE if options.photographs else f"{TITLE}, without its photographs",
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(encode_image(picture, form=options.out.suffix[1:]))
    print(options.out)


class PlainUnpickler(pickle.Unpickler):
    """Dicts, lists, strings, numbers and numpy scalars: a file that names any other class or function is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("numpy.core.multiarray", "scalar"), ("numpy", "dtype"), ("_codecs", "encode")):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} has no place in an info file")


def read_record(folder: Path) -> dict[str, Any]:
    """The one key frame that a folder's info file describes."""
    (path,) = folder.glob("*.pkl")
    with path.open("rb") as stream:
        (record,) = PlainUnpickler(stream).load()["data_list"]
    found: dict[str, Any] = record
    return found


def bottom_boxes(record: dict[str, Any]) -> np.ndarray:
    """Boxes (n, 9) with bottom centres, of the classes that are detected."""
    kept = [each for each in record["instances"] if each["bbox_label_3d"] >= 0]
    boxes = np.array([[*each["bbox_3d"], *each["velocity"]] for each in kept])
    boxes[:, 2] -= boxes[:, 5] / 2
    return boxes


def projections(record: dict[str, Any]) -> np.ndarray:
    """From the lidar to the pixels of each camera (6, 4, 4)."""
    images = [record["images"][camera] for camera in CAMERAS]
    return lidar_to_image(
        np.array([each["cam2img"] for each in images]), lidar2cam=np.array([each["lidar2cam"] for each in images])
    )


def blank() -> np.ndarray:
    """A sheet with the border of an image."""
    sheet = np.full((900, 1600, 3), SHEET, dtype=np.uint8)
    cv2.rectangle(sheet, (0, 0), (1599, 899), BORDER, 6)
    return sheet


def photograph(record: dict[str, Any], camera: str, folder: Path) -> np.ndarray:
    """The camera's image, RGB."""
    image = cv2.imread(str(folder / record["images"][camera]["img_path"]))
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def draw_reference(sheet: np.ndarray, entries: list[dict[str, Any]]) -> None:
    """The rectangles around the boxes as mmdet3d noted them, into the sheet."""
    for entry in entries:
        left, top, right, bottom = (round(side) for side in entry["bbox"])
        cv2.rectangle(sheet, (left, top), (right, bottom), REFERENCE, 3)


if __name__ == "__main__":
    main()
