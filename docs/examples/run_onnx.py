"""Run an exported detector on frames of one scene and print its boxes; onnxruntime and numpy are all it needs.

    python run_onnx.py model.onnx frames.npz

frames.npz holds, frame after frame, what docs/export.md says of the inputs; lidar2img (frames, cameras, 4, 4) does in
place of img2lidar. Boxes of BEVDepth are in the vehicle's frame, or in the LiDAR's with lidar2ego (frames, 4, 4).
"""

import json
import sys
from itertools import islice

import numpy as np
import onnxruntime

BOXES = 10


def decode(codes, pose):
    """Box codes to centre [m], length, width, height [m], yaw [radians] and velocity [m/s], in the frame of a pose."""
    turn = pose[:2, :2].T
    centre = codes[:, [0, 1, 4]] @ pose[:3, :3].T + pose[:3, 3]
    ahead, velocity = -codes[:, 6:8] @ turn, codes[:, 8:] @ turn
    yaw = np.arctan2(ahead[:, 1:], ahead[:, :1])
    return np.concatenate([centre, np.exp(codes[:, [3, 2, 5]]), yaw, velocity], axis=1)


def best(logits, boxes, circles):
    """Score, class and box of pairs of a row and a class, best first, none near a better one of its task."""
    scores, rows = 1 / (1 + np.exp(-logits)), []
    task = np.arange(len(boxes)) * len(circles) // len(boxes)
    for place in np.argsort(-scores, axis=None, kind="stable"):
        row, label = np.unravel_index(place, scores.shape)
        better = [other for other in rows if task[other] == task[row]]
        if np.all(np.square(boxes[better, :2] - boxes[row, :2]).sum(1) > circles[task[row]]):
            rows.append(row)
            yield scores[row, label], label, boxes[row]


def main(model, frames):
    """Run all frames, each with what the one before left."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    stated = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    classes, circles = stated["qdbev.classes"], stated.get("qdbev.circles_m2") or [-1.0]
    carried = {name: output for output, name in stated["qdbev.carried"].items()}
    recorded, names = dict(np.load(frames)), [port.name for port in session.get_outputs()]
    if "lidar2img" in recorded:
        recorded["img2lidar"] = np.linalg.inv(recorded["lidar2img"].astype(np.float64)).astype(np.float32)
    shapes = {port.name: port.shape for port in session.get_inputs()}
    kept = [name for name in shapes if name.startswith("has_") or name in carried]
    memory = {name: np.zeros(shapes[name], np.float32) for name in kept}
    poses = np.linalg.inv(recorded.get("lidar2ego", np.broadcast_to(np.eye(4), (len(recorded["image"]), 4, 4))))
    for index, pose in enumerate(poses):
        feeds = {name: recorded[name][index : index + 1] for name in shapes if name not in kept}
        outputs = dict(zip(names, session.run(names, feeds | memory), strict=True))
        memory = {name: outputs[carried[name]] if name in carried else np.ones(1, np.float32) for name in kept}
        print(f"frame {index}")
        found = best(outputs["class_logits"][0], decode(outputs["box_codes"][0], pose), circles)
        for score, label, (x, y, z, length, width, height, yaw, *_) in islice(found, BOXES):
            where = f"({x:6.2f}, {y:6.2f}, {z:5.2f}) m"
            print(f"  {score:.3f} {classes[label]:20} {where}  {length:.2f} x {width:.2f} x {height:.2f} m  {yaw:5.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
