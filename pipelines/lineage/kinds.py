"""Kinds of artifacts, the files in them, and what tables call the scores; each name stands here and nowhere else."""

from __future__ import annotations

FLOAT = "float"
CALIBRATION = "calibration"
QAT = "qat"
QAT_LONGER = "qat-longer"
VGD = "vgd"
EVALUATION = "evaluation"
SENSITIVITY = "sensitivity"
BIT_PLAN = "bit-plan"
COMPRESSION = "compression"
PACKED = "packed"
ONNX = "onnx"

QUANTIZED = (VGD, QAT_LONGER, QAT, CALIBRATION)
"""Kinds that hold a quantized detector, the furthest along the chain first."""
EXPORTS = (PACKED, ONNX)
"""Kinds that hold a quantized detector as other programs read it."""
MODELS = (*QUANTIZED, *EXPORTS, FLOAT)
"""Kinds that hold a detector."""
START = {CALIBRATION: "float", QAT: "start", VGD: "start", QAT_LONGER: "start", ONNX: "model"}
"""Kind of a model -> the role of the parent whose weights it started from."""

WEIGHTS = "model.safetensors"
"""What would be deployed: float weights, or packed integers with their scales."""
LATENT = "latent.safetensors"
"""The float weights behind the integers."""
GRAPH = "model.onnx"
"""The graph that a runtime runs."""
GATE = "gate.json"
"""What the gate saw when it ran the graph."""
STRUCTURE = "structure.json"
"""Folded norms, plan and parts of a quantized detector."""
CURVE = "curve.json"
"""Losses and rates of a training, row by row."""
LOSSES = "losses.csv"
"""The same as a table; trainings sealed earlier lack it."""
CURVE_PICTURE = "curve.png"
"""The curves of a whole chain, drawn."""
DETECTIONS_PICTURE = "detections.jpg"
"""What the first and the last detector of a chain see in one key frame, drawn."""
SUBMISSION = "results_nusc.json"
"""A submission in the format of nuScenes, as its server takes it."""
RESULTS = "results_nusc.json.gz"
"""The same, compressed, where it is kept beside its scores; evaluations sealed earlier hold it as it is."""
DETAILS = "scores.json"
"""Its scores, class by class."""
BITS = "bit-plan.json"
"""The bits of each layer, and the losses they were chosen by."""
PARETO_PICTURE = "pareto.png"
"""What other budgets would give, drawn."""
SENSITIVITY_PICTURE = "sensitivity.png"
"""The drop of each part, drawn."""

FRAME_S = "frame"
"""Among the durations of an evaluation: seconds that a frame took, images read and boxes written."""

SCORES = ("NDS", "mAP", "mATE", "mASE", "mAOE", "mAVE", "mAAE")
"""Of nuScenes-devkit's DetectionEval, in the order of the paper's tables."""
TO_TRAINED = "to_trained"
"""Among the metrics of an executed graph: the paired interval of its NDS minus that of what was exported."""
