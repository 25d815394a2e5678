"""A graph for a device that is not here, simulated: the detector at the device's bits, run by torch."""

from __future__ import annotations

import torch

from pipelines.assembly.detector import Detector
from pipelines.assembly.quantized import load_quantized
from pipelines.exporting.onnx import target_of
from pipelines.lineage.kinds import GRAPH
from pipelines.store.artifacts import Artifact, Store
from profiles import Profile
from qdbev.export.onnx.device.lowering import integer_biases
from qdbev.export.onnx.packages import onnx_package
from qdbev.export.targets.legal import put_onto_legal_bits


def simulated(export: Artifact, *, profile: Profile, store: Store) -> Detector:
    """The detector whose graph an export is: the same integers at every tap, as its gate has seen.

    Args:
        export: For a device.
        profile: That of the export.
        store: Holds the model that was exported.
    """
    model = store.open(export.manifest.parents["model"])
    detector = load_quantized(model, profile=profile).detector
    put_onto_legal_bits(detector, target=target_of(export))
    biases = integer_biases(onnx_package().load(export.file(GRAPH)))
    with torch.no_grad():
        for name, value in biases.items():
            detector.get_parameter(name).copy_(torch.from_numpy(value))
    return detector
