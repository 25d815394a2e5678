"""Data that is wrong is refused by code and name before anything runs; what is merely odd is said, and works."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from nuscenes.eval.detection.utils import category_to_detection_name

from qdbev.data.nuscenes.findings import Finding, errors_of, notes_of, refuse_errors
from qdbev.data.nuscenes.inspection import Inspection, Source, inspected
from qdbev.data.nuscenes.sample_cache import scene_digest
from qdbev.data.nuscenes.tables import split_scenes
from tests.conftest import TINY_VERSION

NAN = float("nan")
Rows = list[dict[str, Any]]


class Tree:
    """A copy of the tiny data set whose tables and CAN files can be changed; images are links."""

    def __init__(self, root: Path, *, source: Path) -> None:
        self.root = root
        self.folder = root / TINY_VERSION
        shutil.copytree(source / TINY_VERSION, self.folder)
        shutil.copytree(source / "can_bus", root / "can_bus")
        for name in ("samples", "maps"):
            (root / name).symlink_to(source / name)
        self.scene = next(row for row in self.rows("scene") if row["name"] == "scene-0003")
        samples = sorted(self.rows("sample"), key=lambda row: int(row["timestamp"]))
        self.chain = [row["token"] for row in samples if row["scene_token"] == self.scene["token"]]

    def rows(self, name: str) -> Rows:
        rows: Rows = json.loads((self.folder / f"{name}.json").read_text())
        return rows

    def write(self, name: str, rows: object) -> None:
        (self.folder / f"{name}.json").write_text(json.dumps(rows))

    def change(
        self, name: str, change: Callable[[dict[str, Any]], object], *, token: str = "", every: bool = False
    ) -> None:
        """Change one row (of a token, or the first of the val scene's second sample), or every row."""
        rows = self.rows(name)
        for row in rows if every else [self.row(name, rows, token=token)]:
            change(row)
        self.write(name, rows)

    def row(self, name: str, rows: Rows, *, token: str = "") -> dict[str, Any]:
        if token:
            return next(row for row in rows if row["token"] == token)
        if name == "sample":
            return next(row for row in rows if row["token"] == self.chain[1])
        if name in ("sample_data", "sample_annotation"):
            return next(row for row in rows if row["sample_token"] == self.chain[1])
        if name == "ego_pose":
            return self.row(name, rows, token=self.row("sample_data", self.rows("sample_data"))["ego_pose_token"])
        if name == "calibrated_sensor":
            data = self.row("sample_data", self.rows("sample_data"))
            return self.row(name, rows, token=data["calibrated_sensor_token"])
        return rows[0]

    def messages(self, change: Callable[[Rows], object]) -> None:
        path = self.root / "can_bus" / "scene-0003_pose.json"
        rows = json.loads(path.read_text())
        path.write_text(json.dumps(change(rows) or rows))

    def own_images(self) -> list[Path]:
        """Files of the val scene's second sample, copied, so that they can be changed."""
        linked = self.root / "samples"
        if linked.is_symlink():
            target = linked.resolve()
            linked.unlink()
            shutil.copytree(target, linked)
        rows = self.rows("sample_data")
        names = [row["filename"] for row in rows if row["sample_token"] == self.chain[1] and row["fileformat"] == "jpg"]
        return [self.root / name for name in names]

    def seen(self, *, scenes: tuple[str, ...] = ("scene-0003",), lidar: bool = False) -> Inspection:
        source = Source(self.root, version=TINY_VERSION, cache=self.root.parent / "cache")
        return inspected(source, scenes=scenes, lidar=lidar)


@pytest.fixture
def tree(tiny_synthetic: Path, tmp_path: Path) -> Tree:
    return Tree(tmp_path / "own", source=tiny_synthetic)


def test_sound_data_has_no_findings(tree: Tree) -> None:
    seen = tree.seen(scenes=("scene-0001", "scene-0002", "scene-0003"), lidar=True)
    assert seen.findings == () and len(seen.samples) == 12


def _set(**fields: object) -> Callable[[dict[str, Any]], object]:
    return lambda row: row.update(fields)


def _lack(field: str) -> Callable[[dict[str, Any]], object]:
    return lambda row: row.pop(field)


def _plain(row: dict[str, Any]) -> None:
    row["name"] = category_to_detection_name(row["name"]) or row["name"]


def _scaled(field: str, factor: float) -> Callable[[dict[str, Any]], object]:
    return lambda row: row.update({field: row[field] * factor})


def _shouted(row: dict[str, Any]) -> None:
    row["name"] = row["name"].title()


def _of_another_camera(row: dict[str, Any]) -> None:
    row["filename"] = row["filename"].replace("CAM_FRONT", "CAM_BACK")


def _with_a_second(tree: Tree) -> Rows:
    rows = tree.rows("sample_data")
    return [*rows, tree.row("sample_data", rows) | {"token": "second"}]


def _two_attributes(tree: Tree) -> list[str]:
    return [row["token"] for row in tree.rows("attribute")[:2]]


TABLE_FAULTS: list[tuple[str, Callable[[Tree], object], str]] = [
    # structure
    ("table", lambda t: t.write("ego_pose", None), "ego_pose.json holds a NoneType, not a list of rows"),
    ("table", lambda t: t.write("sample", {"a": 1}), "sample.json holds a dict"),
    ("table", lambda t: t.write("sensor", [1, 2]), "sensor.json: 2 of 2 rows are no objects"),
    ("map", lambda t: t.write("map", []), "map.json is empty"),
    ("field", lambda t: t.change("sample_annotation", _set(num_lidar_pts=None)), "num_lidar_pts of sample_annotation"),
    ("field", lambda t: t.change("sample_annotation", _lack("num_radar_pts"), every=True), "write 0 where nothing"),
    ("field", lambda t: t.change("sample_annotation", _lack("size")), "size is missing in 1 of"),
    ("field", lambda t: t.change("sample_annotation", _set(num_lidar_pts=-1)), "a whole number from 0 on"),
    ("field", lambda t: t.change("ego_pose", _set(rotation=[1, 0, 0])), "not 4 numbers"),
    ("field", lambda t: t.change("ego_pose", _set(translation=["1", 0, 0])), "not 3 numbers"),
    ("field", lambda t: t.change("sample", _set(timestamp=NAN)), "is nan, not a number"),
    ("field", lambda t: t.change("sample", _set(timestamp="soon")), "timestamp of sample"),
    ("field", lambda t: t.change("sample_data", _set(filename="../../etc/passwd")), "a path inside the data set"),
    ("field", lambda t: t.change("sample_data", _set(is_key_frame="yes")), "true or false"),
    ("field", lambda t: t.change("category", _set(name=None)), "a name"),
    ("token", lambda t: t.write("sample", t.rows("sample") + t.rows("sample")[:1]), "2 rows of sample have the token"),
    ("token", lambda t: t.change("scene", _set(name="scene-0003"), every=True), "rows of scene have the name"),
    ("reference", lambda t: t.write("ego_pose", t.rows("ego_pose")[:-1]), "which ego_pose.json does not hold"),
    (
        "reference",
        lambda t: t.change("sample_data", _set(sample_token="gone")),
        "'gone', which sample.json does not hold",
    ),
    ("reference", lambda t: t.change("sample_annotation", _set(attribute_tokens=["x"])), "which attribute.json"),
    # scenes
    ("chain", lambda t: t.change("sample", _set(next=t.chain[0]), token=t.chain[-1]), "go in a circle"),
    ("chain", lambda t: t.change("sample", _set(next="")), "its last should be"),
    ("chain", lambda t: t.change("sample", _set(prev="")), "comes before"),
    ("chain", lambda t: t.change("scene", _set(nbr_samples=3), token=t.scene["token"]), "its row says 3"),
    ("chain", lambda t: t.change("sample", _set(next=t.chain[1])), "go in a circle"),
    ("time", lambda t: t.change("sample", _set(timestamp=t.rows("sample")[0]["timestamp"])), "time does not grow"),
    ("time", lambda t: t.change("sample", _scaled("timestamp", 1e-6), every=True), "are 0.5 microseconds apart"),
    ("time", lambda t: t.change("sample", _scaled("timestamp", 1e-3), every=True), "are 500 microseconds apart"),
    ("time", lambda t: t.change("sample", _scaled("timestamp", 1000), every=True), "are 5e+08 microseconds apart"),
    # sensors
    ("quaternion", lambda t: t.change("ego_pose", _set(rotation=[0.6, 0.8, 0, 0])), "leans by 106 degrees"),
    (
        "intrinsic",
        lambda t: t.change("calibrated_sensor", _set(camera_intrinsic=[[0.8, 0, 0.5], [0, 1.4, 0.5], [0, 0, 1]])),
        "has focal lengths of 0.8 and 1.4 px on an image of 176x96",
    ),
    ("field", lambda t: t.change("sample_data", _set(filename="a\nb.jpg")), "'a\\nb.jpg', not a path inside"),
    ("field", lambda t: t.change("sample_data", _set(filename="\ud800.jpg")), "a path inside the data set"),
    ("finite", lambda t: t.change("ego_pose", _set(translation=[NAN, 0, 0])), "translation of ego_pose"),
    ("quaternion", lambda t: t.change("ego_pose", _set(rotation=[0.0] * 4)), "has length 0, not 1"),
    ("quaternion", lambda t: t.change("calibrated_sensor", _set(rotation=[0.0] * 4)), "rotation of calibrated_sensor"),
    ("quaternion", lambda t: t.change("ego_pose", _set(rotation=[NAN] * 4)), "has length nan"),
    ("intrinsic", lambda t: t.change("calibrated_sensor", _set(camera_intrinsic=[[NAN] * 3] * 3)), "is not finite"),
    ("intrinsic", lambda t: t.change("calibrated_sensor", _set(camera_intrinsic=[])), "camera_intrinsic"),
    (
        "intrinsic",
        lambda t: t.change("calibrated_sensor", _set(camera_intrinsic=[[-1, 0, 5], [0, 1, 5], [0, 0, 1]])),
        "no positive focal lengths",
    ),
    ("camera", lambda t: t.change("sample_data", _set(is_key_frame=False)), "have no key frame of CAM_"),
    ("camera", lambda t: t.write("sample_data", _with_a_second(t)), "two key frames"),
    ("image", lambda t: t.change("sample_data", _set(width=0)), "no width or height"),
    ("file", lambda t: t.change("sample_data", _of_another_camera), "its file of CAM_BACK"),
    # boxes
    (
        "finite",
        lambda t: t.change("sample_annotation", _set(translation=[NAN, 0, 0])),
        "translation of sample_annotation",
    ),
    ("size", lambda t: t.change("sample_annotation", _set(size=[0, 1, 1])), "size of sample_annotation"),
    ("size", lambda t: t.change("sample_annotation", _set(size=[1930, 4800, 1659])), "which are metres"),
    ("quaternion", lambda t: t.change("sample_annotation", _set(rotation=[0, 0, 0.6, 0.8])), "leans by 74 degrees"),
    ("category", lambda t: t.change("category", _shouted, every=True), "nuScenes writes vehicle.car"),
    ("category", lambda t: t.change("category", lambda row: row.update(name=row["name"] + " "), every=True), "writes"),
    ("size", lambda t: t.change("sample_annotation", _set(size=[1, NAN, 1])), "size of sample_annotation"),
    (
        "attribute",
        lambda t: t.change("sample_annotation", _set(attribute_tokens=_two_attributes(t))),
        "has 2 attributes",
    ),
    (
        "link",
        lambda t: t.change("sample_annotation", lambda row: row.update(next=row["token"])),
        "not on that side in time",
    ),
    (
        "link",
        lambda t: t.change("sample_annotation", _set(prev=t.rows("sample_annotation")[0]["token"])),
        "of another object",
    ),
    (
        "no-box",
        lambda t: t.change("sample_annotation", _set(num_lidar_pts=0, num_radar_pts=0), every=True),
        "0 LiDAR and radar points",
    ),
    ("no-box", lambda t: t.write("sample_annotation", []), "none is of a class"),
    ("category", lambda t: t.change("category", _plain, every=True), "nuScenes calls it"),
    # CAN messages
    (
        "can-bus",
        lambda t: t.messages(lambda rows: [row.update(vel=[NAN] * 3) for row in rows] and None),
        "vel of message 0",
    ),
    ("can-bus", lambda t: t.messages(lambda rows: rows[5].pop("accel") and None), "accel of message 5"),
    ("can-bus", lambda t: t.messages(lambda rows: rows[3].update(utime=None)), "message 3 has no time"),
    ("can-bus", lambda t: t.messages(lambda rows: {"a": 1}), "holds a dict, not a list of messages"),
]


@pytest.mark.parametrize(("code", "damage", "phrase"), TABLE_FAULTS)
def test_faults_are_named(tree: Tree, code: str, damage: Callable[[Tree], object], phrase: str) -> None:
    damage(tree)
    seen = tree.seen()
    assert not seen.samples
    errors = errors_of(seen.findings)
    assert any(finding.code == code and phrase in finding.sentence for finding in errors), errors[:5]
    with pytest.raises(ValueError, match=r".") as refusal:
        refuse_errors(seen.findings, root=tree.root)
    assert len(str(refusal.value)) < 1000 and "\n" not in str(refusal.value)


def test_faults_of_other_scenes_do_not_matter(tree: Tree) -> None:
    tree.change("sample", _set(timestamp=5), token=tree.chain[-1])
    tree.messages(lambda rows: rows[0].update(vel=None))
    assert tree.seen(scenes=("scene-0001",)).findings == ()
    assert errors_of(tree.seen().findings)


def test_what_is_odd_is_said_and_works(tree: Tree) -> None:
    def swapped(row: dict[str, Any]) -> None:
        row["sensor_token"] = {front: back, back: front}.get(row["sensor_token"], row["sensor_token"])

    sensors = {row["channel"]: row["token"] for row in tree.rows("sensor")}
    front, back = sensors["CAM_FRONT"], sensors["CAM_BACK"]
    tree.messages(lambda rows: rows[::-1])
    tree.change("category", _set(name="vehicle.golf_cart"), token=_category(tree))
    seen = tree.seen()
    assert len(seen.samples) == 4 and not errors_of(seen.findings)
    assert any("go back in time" in note for note in notes_of(seen.findings))
    assert any("'vehicle.golf_cart' is not nuScenes'" in note for note in notes_of(seen.findings))
    tree.change("calibrated_sensor", swapped, every=True)
    assert any("files of" in f.sentence or "its file of" in f.sentence for f in errors_of(tree.seen().findings))


def _longways(row: dict[str, Any]) -> None:
    row["size"] = [row["size"][1], row["size"][0], row["size"][2]]


def _alone(row: dict[str, Any]) -> None:
    row.update(prev="", next="")


def _turned_round(row: dict[str, Any]) -> None:
    w, x, y, z = row["rotation"]
    row["rotation"] = [-z, y, -x, w]


def _in_kmh(rows: Rows) -> None:
    for row in rows:
        row["vel"] = [3.6 * value for value in row["vel"]]


def _thrown(tree: Tree) -> None:
    token = tree.row("sample_annotation", tree.rows("sample_annotation"))["token"]
    tree.change("sample_annotation", lambda row: row.update(translation=[9e3, 9e3, 0]), token=token)


def _twice(tree: Tree) -> None:
    rows = tree.rows("sample_annotation")
    copies = [row | {"token": f"{row['token']}x", "prev": "", "next": ""} for row in rows]
    tree.write("sample_annotation", rows + copies)


@pytest.mark.parametrize(
    ("code", "damage", "phrase"),
    [
        ("size", lambda t: t.change("sample_annotation", _longways, every=True), "are wider than long"),
        ("attribute", lambda t: t.change("sample_annotation", _set(attribute_tokens=[]), every=True), "mAAE is 1"),
        ("link", lambda t: t.change("sample_annotation", _alone, every=True), "mAVE is 1"),
        ("link", _thrown, "m/s to its next box"),
        ("box", _twice, "boxes stand twice in their sample"),
        ("box", _twice, "objects have two boxes in a sample"),
        ("pose", lambda t: t.change("ego_pose", _turned_round, every=True), "does ego_pose point where it looks"),
        ("can-bus", lambda t: t.messages(_in_kmh), "its poses make"),
    ],
)
def test_what_is_likely_in_another_unit_or_order_is_said(
    tree: Tree, code: str, damage: Callable[[Tree], object], phrase: str
) -> None:
    damage(tree)
    seen = tree.seen()
    assert len(seen.samples) == 4 and not errors_of(seen.findings)
    assert any(finding.code == code and phrase in finding.sentence for finding in seen.findings), seen.findings


def _category(tree: Tree) -> str:
    """The category of one object of the val scene that is no class of its own."""
    instance = tree.row("sample_annotation", tree.rows("sample_annotation"))["instance_token"]
    return str(next(row["category_token"] for row in tree.rows("instance") if row["token"] == instance))


def test_a_camera_that_looks_elsewhere(tree: Tree) -> None:
    tree.change(
        "calibrated_sensor",
        lambda row: row.update(rotation=[-row["rotation"][2], row["rotation"][3], *row["rotation"][:2]]),
    )
    assert any(finding.code == "rig" for finding in tree.seen().findings)


def test_an_empty_can_file_is_none(tree: Tree) -> None:
    with_messages = tree.seen().samples[0]["can_bus"]
    (tree.root / "can_bus" / "scene-0003_pose.json").write_text("[]\n")
    seen = tree.seen()
    assert seen.findings == () and seen.samples[0]["can_bus"][13] == pytest.approx(with_messages[13], abs=1.0)
    assert seen.samples[0]["can_bus"][13] != 0


def test_own_scene_names_with_splits(tree: Tree) -> None:
    tree.change("scene", lambda row: row.update(name=row["name"].replace("scene-0", "drive-1")), every=True)
    names = {"train": ["drive-1001", "drive-1002"], "val": ["drive-1003"], "my_val": ["drive-1003"]}
    (tree.folder / "splits.json").write_text(json.dumps(names))
    assert split_scenes(TINY_VERSION, root=tree.root) == names
    seen = tree.seen(scenes=("drive-1003",))
    assert len(seen.samples) == 4 and seen.findings == ()
    for damaged in ("[]", '{"train": "drive"}', '{"val": [1]}', "{", '{"train": ["a", "b"], "val": ["b"]}'):
        (tree.folder / "splits.json").write_text(damaged)
        with pytest.raises(ValueError, match=r"splits\.json"):
            split_scenes(TINY_VERSION, root=tree.root)


IMAGE_FAULTS: list[tuple[str, Callable[[bytes], bytes], str]] = [
    (
        "a third of zeros",
        lambda raw: raw[: len(raw) // 3] + bytes(len(raw) // 3) + raw[2 * len(raw) // 3 :],
        "has a hole",
    ),
    ("40 zeros", lambda raw: raw[: len(raw) // 2] + bytes(40) + raw[len(raw) // 2 + 40 :], "has a hole"),
    ("cut", lambda raw: raw[: len(raw) // 2], "truncated"),
    ("cut, then zeros", lambda raw: raw[: len(raw) // 2] + bytes(len(raw) - len(raw) // 2), "truncated"),
    ("empty", lambda raw: b"", "truncated or not an image"),
    ("text", lambda raw: b"<html>404</html>", "not an image"),
    ("another size", lambda raw: _encoded(_decoded(raw)[:50], ".jpg"), "its table says 176x96"),
    (
        "a third of 0xFF",
        lambda raw: raw[: len(raw) // 2] + b"\xff" * 99 + raw[len(raw) // 2 + 99 :],
        "no encoder writes",
    ),
    ("two in one", lambda raw: raw[: len(raw) // 2] + raw, "no encoder writes"),
    ("a changed PNG", lambda raw: _flipped(_encoded(_decoded(raw), ".png")), "no encoder writes"),
    ("a PNG without its middle", lambda raw: _middle_out(_encoded(_decoded(raw), ".png")), "truncated"),
    ("a cut PNG", lambda raw: _encoded(_decoded(raw), ".png")[:-200], "truncated"),
]


def _decoded(raw: bytes) -> Any:
    return cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)


def _encoded(image: Any, ending: str) -> bytes:
    return bytes(cv2.imencode(ending, image)[1].tobytes())


def _flipped(raw: bytes) -> bytes:
    half = len(raw) // 2
    return raw[:half] + bytes([raw[half] ^ 1]) + raw[half + 1 :]


def _middle_out(raw: bytes) -> bytes:
    return raw[: len(raw) // 2] + raw[-12:]


@pytest.mark.parametrize(("damage", "phrase"), [row[1:] for row in IMAGE_FAULTS], ids=[row[0] for row in IMAGE_FAULTS])
def test_damaged_images_are_named(tree: Tree, damage: Callable[[bytes], bytes], phrase: str) -> None:
    path = tree.own_images()[0]
    path.write_bytes(damage(path.read_bytes()))
    (finding,) = tree.seen().findings
    assert finding.error and finding.code == "image" and phrase in finding.sentence and str(path) in finding.sentence


def test_whole_images_of_other_forms_are_read(tree: Tree) -> None:
    trailing, png, padded, progressive = tree.own_images()[:4]
    trailing.write_bytes(trailing.read_bytes() + bytes(200))
    png.write_bytes(_encoded(_decoded(png.read_bytes()), ".png"))
    padded.write_bytes(padded.read_bytes() + b"\xff\xd8 a thumbnail without an end")
    image = np.full_like(_decoded(progressive.read_bytes()), 90)
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    progressive.write_bytes(cv2.imencode(".jpg", image, options)[1].tobytes())
    assert tree.seen().findings == ()


def test_digests_follow_contents_and_files_are_read_once(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tree.own_images()[0]
    monkeypatch.setattr("qdbev.data.nuscenes.contents._SETTLED_NS", -(10**18))  # as if written long ago
    before = scene_digest(tree.seen().samples)
    reads: list[Path] = []
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: (reads.append(self), read(self))[1])
    assert scene_digest(tree.seen().samples) == before
    assert not [file for file in reads if file.suffix == ".jpg"]
    raw = bytearray(read(path))
    raw[len(raw) // 2] ^= 1
    path.write_bytes(bytes(raw))  # in place, at equal size
    assert scene_digest(tree.seen().samples) != before
    assert [file for file in reads if file.suffix == ".jpg"] == [path]


def test_a_camera_with_the_picture_of_another_is_said(tree: Tree) -> None:
    front, right, *_ = tree.own_images()
    right.write_bytes(front.read_bytes())
    (finding,) = tree.seen().findings
    assert not finding.error and finding.code == "file" and "1 files have the bytes of another one" in finding.sentence


def test_lidar_is_looked_into_where_it_is_read(tree: Tree) -> None:
    tree.own_images()
    rows = tree.rows("sample_data")
    path = tree.root / next(
        r["filename"] for r in rows if r["sample_token"] == tree.chain[1] and "LIDAR" in r["filename"]
    )
    before = scene_digest(tree.seen(lidar=True).samples)
    assert scene_digest(tree.seen().samples) != before
    path.write_bytes(path.read_bytes()[::-1])
    assert scene_digest(tree.seen(lidar=True).samples) != before
    raw = path.read_bytes()
    for damaged, phrase in ((raw[:-1], "is cut"), (b"\xff" * len(raw), "not finite")):
        path.write_bytes(damaged)
        assert phrase in errors_of(tree.seen(lidar=True).findings)[0].sentence and tree.seen().findings == ()
    path.unlink()
    assert tree.seen().findings == ()
    (finding,) = tree.seen(lidar=True).findings
    assert finding == Finding("lidar", "sample_data", str(path.relative_to(tree.root)), finding.sentence)
    assert "cannot be read" in finding.sentence
