"""Run an exported detector on frames of one scene and print its boxes; onnxruntime and numpy are all it needs.

    python run_onnx.py model.onnx frames.npz

frames.npz holds, frame after frame, what docs/export.md says of the inputs: image (frames, cameras, 3, height, width),
normalised as metadata says; lidar2img (frames, cameras, 4, 4); can_bus (frames, 18) where the graph asks for it.
"""

import json
import sys

import numpy as np
import onnxruntime

BOXES = 10


def decode(codes):
    """Box codes to centre [m], length, width, height [m], yaw [radians] and velocity [m/s] in the LiDAR frame."""
    x, y, log_width, log_length, z, log_height, sine, cosine = codes[:, :8].T
    sizes = np.exp([log_length, log_width, log_height])
    yaw = -np.arctan2(sine, cosine) - np.pi / 2
    yaw = np.where(yaw < -np.pi, yaw + 2 * np.pi, yaw)
    return np.stack([x, y, z, *sizes, yaw, *codes[:, 8:].T], axis=1)


def best(logits, codes):
    """Score, class and box of the best pairs of an object query and a class."""
    scores = 1 / (1 + np.exp(-logits))
    order = np.argsort(-scores, axis=None, kind="stable")[:BOXES]
    query, label = np.unravel_index(order, scores.shape)
    return scores[query, label], label, decode(codes[query])


def main(model, frames):
    """Run all frames, each with what the one before left."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    stated = session.get_modelmeta().custom_metadata_map
    classes, carried = (json.loads(stated[f"qdbev.{name}"]) for name in ("classes", "carried"))
    recorded, names = dict(np.load(frames)), [port.name for port in session.get_outputs()]
    if "lidar2img" in recorded:
        recorded["img2lidar"] = np.linalg.inv(recorded["lidar2img"].astype(np.float64)).astype(np.float32)
    shapes = {port.name: port.shape for port in session.get_inputs()}
    kept = [name for name in shapes if name.startswith("has_") or name in carried.values()]
    memory = {name: np.zeros(shapes[name], np.float32) for name in kept}
    for index in range(len(recorded["image"])):
        feeds = {name: recorded[name][index : index + 1] for name in shapes if name not in kept}
        outputs = dict(zip(names, session.run(names, feeds | memory), strict=True))
        logits, codes = outputs["class_logits"], outputs["box_codes"]
        memory = {name: np.ones(1, np.float32) for name in kept}
        memory |= {name: outputs[output] for output, name in carried.items()}
        print(f"frame {index}")
        for score, label, box in zip(*best(logits[0], codes[0]), strict=True):
            x, y, z, length, width, height, yaw, *_ = box
            where = f"({x:6.2f}, {y:6.2f}, {z:5.2f}) m"
            print(f"  {score:.3f} {classes[label]:20} {where}  {length:.2f} x {width:.2f} x {height:.2f} m  {yaw:5.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
