"""ONNX: a quantized detector as a graph of integers that other programs run, checked by running it."""
